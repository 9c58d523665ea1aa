import re
import runpy
from pathlib import Path

import pytest
import setuptools

import sapiens_plugin

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def metadata(monkeypatch) -> dict:
    """Return what setup.py hands to setuptools."""
    monkeypatch.chdir(ROOT)  # find_packages looks in the working directory, as pip's is
    handed: dict = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **keywords: handed.update(keywords))
    runpy.run_path(str(ROOT / 'setup.py'))
    return handed


def test_the_version_is_the_package_s(metadata):
    assert metadata['version'] == sapiens_plugin.__version__


def test_the_python_is_311(metadata):
    assert metadata['python_requires'] == '>=3.11,<3.12'


def test_requirements_are_pinned_or_bounded(metadata):
    extras = metadata['extras_require']
    assert set(extras) == {'dev', 'wandb'}
    everything = [*metadata['install_requires'], *extras['dev'], *extras['wandb']]
    assert 'torch==2.13.0' in everything
    for requirement in everything:
        assert re.fullmatch(r'\w[\w-]*(==[\d.]+|>=[\d.]+,<[\d.]+)', requirement)


def test_mmpose_is_left_to_the_install_without_dependencies(metadata):
    assert not [r for r in metadata['install_requires'] if r.startswith('mmpose')]
    no_deps = (ROOT / 'requirements' / 'no_deps.txt').read_text(encoding='utf-8')
    assert no_deps.splitlines()[-1] == 'mmpose==1.3.2'


def test_every_package_with_code_is_shipped(metadata):
    folders = {path.parent for path in (ROOT / 'sapiens_plugin').rglob('*.py')}
    names = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(metadata['packages']) == names

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import Distribution

import sapiens_plugin

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def metadata(monkeypatch) -> Distribution:
    """Return what setuptools reads from pyproject.toml."""
    monkeypatch.chdir(ROOT)  # as pip does, too
    distribution = Distribution()
    distribution.parse_config_files(['pyproject.toml'])
    return distribution


@pytest.fixture
def pythons(monkeypatch) -> tuple[str, ...]:
    monkeypatch.syspath_prepend(ROOT / 'tools')
    return importlib.import_module('bootstrap').PYTHONS


def test_names_and_licence_are_known(metadata):
    assert metadata.get_name() == 'sapiens_plugin'
    assert metadata.get_version() == sapiens_plugin.__version__
    assert metadata.metadata.license_expression == 'Apache-2.0'
    assert metadata.get_description().startswith("Meta's Sapiens")


def test_the_pythons_are_those_of_the_bootstrap(metadata, pythons):
    admitted = [
        f'3.{minor}' for minor in range(30) if f'3.{minor}' in metadata.python_requires
    ]
    assert admitted == sorted(pythons)
    prefix = 'Programming Language :: Python :: '
    classifiers = metadata.get_classifiers()
    named = [text for text in classifiers if text.startswith(prefix)]
    assert named == [prefix + version for version in admitted]
    assert f'{sys.version_info[0]}.{sys.version_info[1]}' in pythons


def everything(metadata: Distribution) -> list[str]:
    extras = metadata.extras_require
    assert set(extras) == {'dev', 'wandb'}
    return [*metadata.install_requires, *extras['dev'], *extras['wandb']]


def test_requirements_are_pinned_or_bounded(metadata):
    assert 'torch==2.13.0' in everything(metadata)
    for requirement in everything(metadata):
        # setuptools writes the smaller version before or behind the larger one.
        assert re.fullmatch(
            r'\w[\w-]*(==[\d.]+|>=[\d.]+,<[\d.]+|<[\d.]+,>=[\d.]+)', requirement
        )


def test_the_environment_can_build_the_package():
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    (needed,) = tomllib.loads(text)['build-system']['requires']
    dev = (ROOT / 'requirements' / 'dev.txt').read_text(encoding='utf-8')
    assert f'\n{needed},' in dev


def test_versions_of_the_tests_are_the_same_on_every_python(metadata, pythons):
    tested = []
    for version in pythons:
        path = ROOT / 'requirements' / f'constraints-{version}.txt'
        head, *lines = path.read_text(encoding='utf-8').splitlines()
        assert f'on Python {version}' in head
        pins = [line for line in lines if not line.startswith('#')]
        assert all(re.fullmatch(r'[\w-]+==[\w.]+', pin) for pin in pins)
        tested.append(dict(pin.split('==') for pin in pins))
    assert all(pins == tested[0] for pins in tested)
    found = {canonicalize_name(name): version for name, version in tested[0].items()}
    # torch has builds of its own for each GPU, and the build tools change nothing here.
    assert not {'torch', 'triton', 'setuptools', 'pip'} & found.keys()
    assert not [name for name in found if name.startswith(('nvidia', 'cuda'))]
    for text in everything(metadata):
        requirement = Requirement(text)
        if requirement.name not in ('torch', 'setuptools', 'wandb'):
            assert found[canonicalize_name(requirement.name)] in requirement.specifier


def test_mmpose_is_left_to_the_install_without_dependencies(metadata):
    assert not [r for r in metadata.install_requires if r.startswith('mmpose')]
    no_deps = (ROOT / 'requirements' / 'no_deps.txt').read_text(encoding='utf-8')
    assert no_deps.splitlines()[-1] == 'mmpose==1.3.2'


def test_every_package_with_code_is_shipped(metadata):
    folders = {path.parent for path in (ROOT / 'sapiens_plugin').rglob('*.py')}
    names = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(metadata.packages) == names

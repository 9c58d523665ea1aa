import importlib.metadata
from pathlib import Path
from types import ModuleType

import pytest

from sapiens_plugin.workbench.setup_check import setup_packages
from sapiens_plugin.workbench.setup_check.gpu_probe import NvidiaGpu
from sapiens_plugin.workbench.setup_check.setup_packages import (
    check_imports,
    check_packages,
    check_plugin,
    check_python,
    is_complete,
)
from sapiens_plugin.workbench.setup_check.setup_report import Commands

PINS = {
    'runtime.txt': '# why\ntorch==2.13.0\n\nnumpy>=2,<3\njson_tricks==3.17.3\n',
    'no_deps.txt': '# alone\nmmpose==1.3.2\n',
}
GOOD = {
    'torch': '2.13.0+cu130',
    'numpy': '2.4.6',
    'json_tricks': '3.17.3',
    'mmpose': '1.3.2',
}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'requirements').mkdir()
    for name, text in PINS.items():
        (tmp_path / 'requirements' / name).write_text(text, encoding='utf-8')
    return Commands(tmp_path, python='python')


@pytest.fixture
def installed(monkeypatch):
    """Stand in for the metadata of what is installed, and for the GPU."""
    versions = dict(GOOD)

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, 'version', version)
    monkeypatch.setattr(setup_packages, 'nvidia_gpus', list)
    return versions


@pytest.mark.parametrize('version', [(3, 10, 2), (3, 13, 0)])
def test_another_python_is_refused(version, commands):
    supported = ('3.12', '3.11')
    assert check_python(supported, commands, (3, 11, 9)).status == 'ok'
    assert check_python(supported, commands, (3, 12, 10)).status == 'ok'
    found = check_python(supported, commands, version)
    dotted = '.'.join(map(str, version))
    assert found.status == 'fail'
    assert found.detail == f'{dotted}; supported are 3.11, 3.12'
    assert found.mend == f'python {Path("tools", "bootstrap.py")}'


def test_the_plugin_of_another_checkout_is_noted(commands, tmp_path):
    own = tmp_path / 'sapiens_plugin' / '__init__.py'
    assert check_plugin(own, commands).status == 'ok'
    other = tmp_path / 'other' / 'sapiens_plugin' / '__init__.py'
    found = check_plugin(other, commands)
    assert found.status == 'warn' and str(tmp_path / 'other') in found.detail
    assert found.mend.endswith(' -e .')


def test_one_line_where_all_is_as_pinned(commands, installed):
    (found,) = check_packages(commands)
    assert (found.status, found.detail) == ('ok', '4 of 4 as pinned')
    assert is_complete(commands.root)


def test_a_broken_pin_is_named_with_its_command(commands, installed):
    installed['numpy'] = '1.26.4'
    (found,) = check_packages(commands)
    assert (found.name, found.status) == ('numpy', 'fail')
    assert 'is 1.26.4' in found.detail and '>=2' in found.detail
    assert found.mend == "python -m pip install 'numpy>=2,<3'"
    assert is_complete(commands.root)  # though in another version


def test_a_missing_package_is_named_with_its_command(commands, installed):
    del installed['json_tricks'], installed['mmpose']
    first, second = check_packages(commands)
    assert first.detail == 'is not installed; pinned is ==3.17.3'
    assert first.mend == 'python -m pip install json_tricks==3.17.3'
    assert second.mend == 'python -m pip install --no-deps mmpose==1.3.2'
    assert not is_complete(commands.root)


def test_a_wrong_torch_beside_a_gpu_is_exchanged_for_the_cuda_build(
    commands, installed, monkeypatch
):
    installed['torch'] = '2.12.1+cpu'
    (found,) = check_packages(commands)
    assert found.mend == 'python -m pip install torch==2.13.0'
    monkeypatch.setattr(
        setup_packages, 'nvidia_gpus', lambda: [NvidiaGpu('', '', 0, 0)]
    )
    (found,) = check_packages(commands)
    assert found.mend == (
        'python -m pip install torch==2.13.0+cu130 --index-url '
        'https://download.pytorch.org/whl/cu130'
    )


@pytest.mark.parametrize(
    'error, mend',
    [
        (OSError('[WinError 126] c10.dll'), '--force-reinstall --no-deps mod==1.0'),
        (
            ValueError('numpy.dtype size changed'),
            '--force-reinstall --no-deps mod==1.0',
        ),
        (ImportError('libGL.so.1: cannot open'), 'sudo apt install libgl1'),
        (ImportError(), 'mod==1.0'),
    ],
)
def test_a_package_that_does_not_start_is_named(
    error, mend, commands, installed, monkeypatch
):
    def start(name):
        if name == 'mod.compiled':
            raise error
        return ModuleType(name)

    compiled = {'good': 'good.compiled', 'mod': 'mod.compiled'}
    monkeypatch.setattr(setup_packages, '_COMPILED', compiled)
    monkeypatch.setattr(setup_packages.importlib, 'import_module', start)
    installed['mod'] = '1.0'
    (found,) = check_imports(commands)
    assert (found.name, found.status) == ('mod', 'fail')
    assert found.detail.startswith('does not start: ') and len(found.detail) > 16
    assert mend in found.mend


def test_what_this_project_runs_on_is_as_pinned_and_starts(repo):
    commands = Commands(repo)
    assert [check.status for check in check_packages(commands)] == ['ok']
    assert check_imports(commands) == []

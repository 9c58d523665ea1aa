"""The bootstrap on a small checkout, with packages of one line and no network."""

import ast
import base64
import contextlib
import copy
import hashlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType, NoneType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
THIS_PYTHON = f'{sys.version_info[0]}.{sys.version_info[1]}'

# Builds nothing: the editable install gets a wheel that this file wrote beforehand.
BACKEND = """
import shutil
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    shutil.copy('plugin.whl', wheel_directory + '/sapiens_plugin-0.1-py3-none-any.whl')
    return 'sapiens_plugin-0.1-py3-none-any.whl'
"""
# A source distribution that says that pip has come to it, and holds it there.
SLOW_BACKEND = """
import os, pathlib, time
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    folder = pathlib.Path(os.environ['TEST_FOLDER'])
    (folder / 'reached').touch()
    deadline = time.monotonic() + 30
    while not (folder / 'go').exists():
        assert time.monotonic() < deadline, 'nobody said go'
        time.sleep(0.05)
    name = 'slow-1.0-py3-none-any.whl'
    pathlib.Path(wheel_directory, name).write_bytes((folder / 'slow.whl').read_bytes())
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = 'backend'
backend-path = ['.']
"""


@pytest.fixture
def bootstrap(monkeypatch) -> ModuleType:
    """The bootstrap on a machine without another Python."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setenv('PATH', '')
    return importlib.import_module('bootstrap')


def wheel(name: str, version: str, files: dict[str, str] | None = None) -> bytes:
    """Return a wheel of one module, or of the given files."""
    info = f'{name}-{version}.dist-info'
    files = files or {f'{name}.py': f'__version__ = {version!r}\n'}
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    tags = 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    files = files | {f'{info}/METADATA': metadata, f'{info}/WHEEL': tags}
    record = ''
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record += f'{path},sha256={digest.decode().rstrip("=")},{len(text)}\n'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f'{info}/RECORD', f'{record}{info}/RECORD,,\n')
    return buffer.getvalue()


def put_wheel(folder: Path, name: str, version: str) -> None:
    path = folder / f'{name}-{version}-py3-none-any.whl'
    path.write_bytes(wheel(name, version))


def put_slow_sdist(folder: Path) -> None:
    with tarfile.open(folder / 'slow-1.0.tar.gz', 'w:gz') as archive:
        for name, text in {
            'pyproject.toml': PYPROJECT,
            'backend.py': SLOW_BACKEND,
            'PKG-INFO': 'Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n',
        }.items():
            member = tarfile.TarInfo(f'slow-1.0/{name}')
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    (folder / 'slow.whl').write_bytes(wheel('slow', '1.0'))


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and its children, also where it has ended before them."""
    if os.name == 'nt':
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Checkout:
    """A small project with the real ``tools/bootstrap.py`` in it."""

    def __init__(self, root: Path, wheels: Path):
        self.root, self.wheels = root, wheels
        (root / 'tools').mkdir(parents=True)
        shutil.copy(TOOLS / 'bootstrap.py', root / 'tools')
        requirements = root / 'requirements'
        requirements.mkdir()
        (requirements / 'runtime.txt').write_text('torch==1.0\n', encoding='utf-8')
        (requirements / 'dev.txt').write_text('pytest==1.0\n', encoding='utf-8')
        (requirements / 'no_deps.txt').write_text('mmpose==1.0\n', encoding='utf-8')
        self.constraints = requirements / f'constraints-{THIS_PYTHON}.txt'
        self.constraints.write_text('extra==1.0\n', encoding='utf-8')
        (root / 'pyproject.toml').write_text(PYPROJECT, encoding='utf-8')
        (root / 'backend.py').write_text(BACKEND, encoding='utf-8')
        (root / 'sapiens_plugin.py').touch()
        self.write_plugin_wheel()

    def write_plugin_wheel(self) -> None:
        """Write what the editable install installs: a path to this checkout."""
        files = {'sapiens_plugin.pth': str(self.root)}
        whole = wheel('sapiens_plugin', '0.1', files)
        (self.root / 'plugin.whl').write_bytes(whole)

    @property
    def venv(self) -> Path:
        return self.root / '.venv'

    @property
    def python(self) -> Path:
        names = ('Scripts', 'python.exe') if os.name == 'nt' else ('bin', 'python')
        return self.venv.joinpath(*names)

    @property
    def site_packages(self) -> Path:
        return next(self.venv.glob('[Ll]ib/**/site-packages'))

    def require(self, requirement: str) -> None:
        """Ask for one more package, as a newer commit may."""
        path = self.root / 'requirements' / 'dev.txt'
        with path.open('a', encoding='utf-8') as file:
            file.write(requirement + '\n')

    def environ(self, **settings: str) -> dict[str, str]:
        """Return an environment with the test's own wheels and no other Python."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith('PIP_')}
        pip = {
            'PIP_CONFIG_FILE': os.devnull,
            'PIP_NO_INDEX': '1',
            'PIP_FIND_LINKS': str(self.wheels),
            'TEST_FOLDER': str(self.wheels),
            'PATH': '',
        }
        return kept | pip | settings

    @contextlib.contextmanager
    def start(self, **settings: str) -> Iterator[subprocess.Popen]:
        """Start a run in a process group of its own, none of which is left behind."""
        process = subprocess.Popen(
            [sys.executable, str(self.root / 'tools' / 'bootstrap.py')],
            env=self.environ(**settings),
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                kill_group(process)

    def run(self, **settings: str) -> SimpleNamespace:
        started = time.monotonic()
        with self.start(**settings) as process:
            stdout, stderr = process.communicate(timeout=120)
        seconds = time.monotonic() - started
        return SimpleNamespace(
            code=process.returncode, stdout=stdout, stderr=stderr, seconds=seconds
        )

    def run_well(self, **settings: str) -> SimpleNamespace:
        """Run, and see that the environment is whole afterwards."""
        done = self.run(**settings)
        assert done.code == 0, done.stderr
        assert done.stdout.strip() == str(self.python)
        code = (
            'import mmpose, pip, pytest, sapiens_plugin as s, torch; print(s.__file__)'
        )
        output = subprocess.check_output(
            [self.python, '-Ic', code], text=True, timeout=60
        )
        assert output.strip() == str(self.root / 'sapiens_plugin.py')
        return done


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Checkout:
    """Return a checkout whose environment is made; every test leaves it whole."""
    folder = tmp_path_factory.mktemp('bootstrap')
    wheels = folder / 'wheels'
    wheels.mkdir()
    for name in ('torch', 'pytest', 'mmpose', 'extra'):
        put_wheel(wheels, name, '1.0')
    put_wheel(wheels, 'extra', '2.0')
    put_slow_sdist(wheels)
    made = Checkout(folder / 'a checkout', wheels)
    first, *_ = made.run_well().stderr.splitlines()
    assert first.startswith(f'Preparing {made.venv} with Python {THIS_PYTHON} (')
    return made


def state_of(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in folder.rglob('*')}


def test_a_second_run_changes_nothing_and_starts_at_once(checkout):
    before = state_of(checkout.root)
    done = checkout.run_well()
    assert state_of(checkout.root) == before
    assert done.stderr == ''
    assert done.seconds < 2


def test_changed_requirements_are_installed_and_the_rest_is_kept(checkout):
    torch = checkout.site_packages / 'torch.py'
    before = torch.stat().st_mtime_ns
    checkout.require('extra>=1')
    # What lies on PYTHONPATH (of ROS, say) is not installed in here.
    foreign = checkout.root / 'foreign'
    with zipfile.ZipFile(io.BytesIO(wheel('extra', '1.0'))) as archive:
        archive.extractall(foreign)
    checkout.run_well(PYTHONPATH=str(foreign))
    # 2.0 could be had, but it is not the one that the tests ran with.
    assert "'1.0'" in (checkout.site_packages / 'extra.py').read_text('utf-8')
    assert torch.stat().st_mtime_ns == before


def test_a_cuda_build_of_torch_is_kept(checkout):
    put_wheel(checkout.wheels, 'torch', '1.0+cu130')
    checkout.run_well()  # not taken by itself: the environment is ready
    install = [checkout.python, '-m', 'pip', 'install', '-q', 'torch==1.0+cu130']
    subprocess.run(install, check=True, env=checkout.environ(), timeout=60)
    (checkout.wheels / 'torch-1.0+cu130-py3-none-any.whl').unlink()
    pyproject = checkout.root / 'pyproject.toml'
    pyproject.write_text(f'{PYPROJECT}# changed\n', encoding='utf-8')
    checkout.run_well()
    assert "'1.0+cu130'" in (checkout.site_packages / 'torch.py').read_text('utf-8')


def break_stamp(checkout: Checkout) -> None:
    (checkout.venv / 'bootstrap.json').unlink()


def forget_installer(metadata: Path) -> None:
    """Leave what a pip leaves that was killed before its last touch."""
    record = (metadata / 'RECORD').read_text(encoding='utf-8').splitlines(True)
    kept = [line for line in record if 'INSTALLER' not in line]
    (metadata / 'RECORD').write_text(''.join(kept), encoding='utf-8')
    (metadata / 'INSTALLER').unlink()


def test_half_installed_packages_are_mended_and_the_rest_is_kept(checkout):
    site = checkout.site_packages
    torch = (site / 'torch.py').stat().st_mtime_ns
    # Killed while it unpacked one package, cut off from power after another one, and
    # killed while it replaced itself.
    (site / 'pytest.py').unlink()
    forget_installer(site / 'pytest-1.0.dist-info')
    (site / 'mmpose.py').write_text('', encoding='utf-8')
    pip = next(site.glob('pip-*.dist-info'))
    pip.rename(site / pip.name.replace('pip', '~ip'))
    (site / 'pip').rename(site / '~ip')
    break_stamp(checkout)

    checkout.run_well()
    assert (site / 'torch.py').stat().st_mtime_ns == torch
    assert (site / 'mmpose.py').read_text(encoding='utf-8') != ''
    assert not [*site.glob('~*')]
    record = (site / 'pytest-1.0.dist-info' / 'RECORD').read_text(encoding='utf-8')
    assert 'INSTALLER' in record


def test_only_whole_packages_count_as_installed(bootstrap, checkout, tmp_path):
    whole = {path.name for path in checkout.site_packages.glob('*.dist-info')}
    bootstrap.drop_half_installed(checkout.site_packages)
    assert {p.name for p in checkout.site_packages.glob('*.dist-info')} == whole

    for metadata in ('pytest-1.0', 'mmpose-1.0', 'sapiens_plugin-0.1'):
        source = checkout.site_packages / f'{metadata}.dist-info'
        shutil.copytree(source, tmp_path / source.name)
    for module in ('pytest.py', 'mmpose.py', 'sapiens_plugin.pth'):
        shutil.copy(checkout.site_packages / module, tmp_path)
    forget_installer(tmp_path / 'pytest-1.0.dist-info')
    (tmp_path / 'mmpose-1.0.dist-info' / 'RECORD').unlink()
    bootstrap.drop_half_installed(tmp_path)
    left = [path.name for path in tmp_path.glob('*.dist-info')]
    assert left == ['sapiens_plugin-0.1.dist-info']


@contextlib.contextmanager
def without(path: Path) -> Iterator[None]:
    aside = path.with_name('aside')
    path.rename(aside)
    yield
    aside.rename(path)


def test_a_half_made_environment_is_not_built_upon(bootstrap, checkout):
    environment = bootstrap.Environment(checkout.root)
    assert environment.usable().site_packages == str(checkout.site_packages)
    with without(checkout.python.with_name('activate')):
        assert environment.usable() is None
    # Without its configuration, the Python in there is the one it was made from, and
    # pip would install into that.
    with without(checkout.venv / 'pyvenv.cfg'):
        assert environment.usable() is None
    # Its Python is a link to, or starts, the one it was made from: that may vanish.
    with without(checkout.python):
        assert environment.usable() is None
        assert not environment.is_ready()
    assert environment.usable()


def test_the_environment_of_another_checkout_is_left_alone(
    bootstrap, checkout, tmp_path
):
    link = tmp_path / 'other' / '.venv'
    link.parent.mkdir()
    try:
        link.symlink_to(checkout.venv, target_is_directory=True)
    except OSError:
        pytest.skip('this system lets no user make links')
    with pytest.raises(bootstrap.BootstrapError, match='leads to the environment of'):
        bootstrap.Environment(link.parent).usable()


def test_a_moved_checkout_is_made_anew_with_scripts_that_start(checkout, tmp_path):
    moved = copy.copy(checkout)
    moved.root = tmp_path / 'moved'
    shutil.copytree(checkout.root, moved.root, symlinks=True)
    moved.write_plugin_wheel()
    torch = next(moved.site_packages.glob('torch-1.0*.dist-info'))
    torch.rename(torch.with_name('torch-1.0+cu130.dist-info'))

    done = moved.run_well()
    activate = moved.python.with_name('activate').read_text(encoding='utf-8')
    assert str(moved.root) in activate
    assert str(checkout.root) not in activate
    # The other torch could not be kept: how to have it again is said.
    assert 'pip install torch==1.0+cu130 --index-url' in done.stderr
    assert done.stderr.rstrip().endswith('/cu130')


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f'{path} never came'
        time.sleep(0.05)


@pytest.mark.skipif(os.name == 'nt', reason='needs process groups and signals')
def test_a_run_killed_while_pip_works_is_gone_on_with(checkout):
    checkout.require('slow==1.0')
    with checkout.start() as first:
        wait_for(checkout.wheels / 'reached')
        first.kill()
        first.wait(timeout=60)
        stamp = (checkout.venv / 'bootstrap.json').read_text(encoding='utf-8')
        assert json.loads(stamp)['installed'] is None

        with checkout.start() as second:
            # pip lives on, and two must not work in there.
            assert 'waiting' in second.stderr.readline()
            assert second.poll() is None
            kill_group(first)
            (checkout.wheels / 'go').touch()
            _, errors = second.communicate(timeout=120)
            assert second.returncode == 0, errors
    checkout.run_well()
    assert (checkout.site_packages / 'slow.py').exists()


def test_two_runs_at_once_do_not_trample_each_other(checkout):
    break_stamp(checkout)
    with checkout.start() as first, checkout.start() as second:
        errors = [p.communicate(timeout=120)[1] for p in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], errors
    # One of them installed, the other found it done.
    assert sum('ready after' in error for error in errors) == 1, errors
    checkout.run_well()


def test_no_index_in_reach_is_said(checkout):
    checkout.require('absent==1.0')
    done = checkout.run(
        PIP_NO_INDEX='0', PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_RETRIES='0'
    )
    assert done.code == 2
    assert 'package index cannot be reached (127.0.0.1:9)' in done.stderr
    assert 'PIP_INDEX_URL' in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'Retry' not in done.stderr  # the user's own setting stands
    log = checkout.venv / 'bootstrap.log'
    assert str(log) in done.stderr
    assert 'absent' in log.read_text(encoding='utf-8')

    done = checkout.run()
    assert done.code == 2
    assert 'The package index has no absent==1.0 for this machine' in done.stderr

    put_wheel(checkout.wheels, 'absent', '1.0')
    checkout.run_well()


def test_a_full_disk_is_said_before_anything_is_installed(
    bootstrap, monkeypatch, tmp_path
):
    root = Checkout(tmp_path / 'new', tmp_path).root
    usage = SimpleNamespace(free=0.4e9)
    monkeypatch.setattr(bootstrap.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(
        bootstrap.BootstrapError, match=r'needs 2\.5 GB, and 0\.4 GB are'
    ):
        bootstrap.ensure_environment(root=root)
    assert not (root / '.venv' / 'pyvenv.cfg').exists()


@pytest.mark.parametrize(
    'name', ['pyproject.toml', f'requirements/constraints-{THIS_PYTHON}.txt']
)
def test_what_decides_on_the_packages_is_minded(bootstrap, checkout, name):
    environment = bootstrap.Environment(checkout.root)
    assert environment.is_ready()
    path = checkout.root / name
    before = path.read_bytes()
    path.write_bytes(before + b'# changed')
    assert not environment.is_ready()
    path.write_bytes(before)
    assert environment.is_ready()


def test_an_environment_is_kept_whichever_python_runs_this(
    bootstrap, checkout, monkeypatch
):
    monkeypatch.setattr(sys, 'executable', '/usr/bin/python3.14')
    monkeypatch.setattr(bootstrap, '_candidates', None)  # not looked for
    assert bootstrap.ensure_environment(root=checkout.root) == checkout.python


def answer(
    version: str, path: str = '', complete: bool = True, prefix: str = ''
) -> str:
    """Return what a Python says of itself."""
    path = path or f'/bin/python{version}'
    return json.dumps([path, version, prefix, '/site-packages', complete])


@pytest.mark.parametrize(
    ('version', 'wanted'), [('3.10', '3.11, 3.12 or 3.13'), ('3.14', '3.11')]
)
def test_an_environment_of_another_python_is_left_alone(
    bootstrap, monkeypatch, tmp_path, version, wanted
):
    checkout = Checkout(tmp_path / 'new', tmp_path)
    checkout.python.parent.mkdir(parents=True)
    checkout.python.with_name('activate').touch()
    said = answer(version, prefix=str(checkout.venv))
    monkeypatch.setattr(bootstrap, '_output', lambda command: said)
    with pytest.raises(
        bootstrap.BootstrapError, match=rf'holds Python {version}, not {wanted}'
    ):
        bootstrap.ensure_environment(root=checkout.root)
    assert checkout.python.with_name('activate').exists()


@pytest.mark.parametrize('version', ['3.11', '3.13'])
def test_a_named_python_has_an_environment_of_its_own(
    bootstrap, monkeypatch, tmp_path, version
):
    root = Checkout(tmp_path / 'new', tmp_path).root
    monkeypatch.setattr(bootstrap, '_output', lambda command: answer(version))
    with pytest.raises(bootstrap.BootstrapError, match=r'needs Python 3\.12\. Here'):
        bootstrap.ensure_environment('3.12', root)
    assert (root / '.venv-3.12').exists() and not (root / '.venv').exists()


@pytest.mark.parametrize(
    ('found', 'taken'),
    [
        # The first is the one that runs this.
        ([answer('3.11'), answer('3.13'), answer('3.12')], '/bin/python3.13'),
        ([answer('3.13', '/a'), answer('3.13', '/b')], '/a'),
        ([answer('3.14'), answer('3.6'), answer('3.12')], '/bin/python3.12'),
        # It does not start, says something else, or makes no environment.
        ([answer('3.11'), '', 'no such version'], '/bin/python3.11'),
        ([answer('3.11'), answer('3.13', complete=False)], '/bin/python3.11'),
    ],
)
def test_the_newest_python_that_makes_environments_is_taken(
    bootstrap, monkeypatch, found, taken
):
    monkeypatch.setattr(
        bootstrap, '_candidates', lambda wanted: [[said] for said in found]
    )
    monkeypatch.setattr(bootstrap, '_output', lambda command: command[0])
    assert bootstrap.find_python().path == taken


def put_python(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n', encoding='utf-8')
    path.chmod(0o755)


@pytest.mark.skipif(os.name == 'nt', reason='there the launcher knows them')
def test_each_python_on_the_path_is_asked_once(bootstrap, monkeypatch, tmp_path):
    calls = tmp_path / 'calls'
    said = answer('3.10')
    put_python(tmp_path / 'this' / 'python3', f"echo this >> {calls}; echo '{said}'")
    monkeypatch.setattr(sys, 'executable', f'{tmp_path}/this/python3')
    # One that stands for others and starts none, the one behind it, and its other name.
    put_python(tmp_path / 'shims' / 'python3.13', f'echo shim >> {calls}; exit 1')
    said = answer('3.13', '/real')
    put_python(tmp_path / 'bin' / 'python3.13', f"echo real >> {calls}; echo '{said}'")
    (tmp_path / 'bin' / 'python3').symlink_to('python3.13')
    put_python(tmp_path / 'bin' / 'python3.14', f'echo new >> {calls}')
    said = answer('3.12', '/of_uv')
    put_python(tmp_path / 'bin' / 'of_uv', f"echo uv >> {calls}; echo '{said}'")
    of_uv = f'test $4 = 3.12 && echo {tmp_path}/bin/of_uv'
    put_python(tmp_path / 'bin' / 'uv', of_uv)
    folders = ':'.join(
        f'{tmp_path}/{name}' for name in ('shims', 'none', 'this', 'bin')
    )
    monkeypatch.setenv('PATH', folders)
    assert bootstrap.find_python().path == '/real'
    assert calls.read_text('utf-8').split() == ['this', 'shim', 'real']
    assert bootstrap.find_python(('3.12',)).path == '/of_uv'


DEBIAN = 'ID=debian\nVERSION_CODENAME=trixie\n'
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\nUBUNTU_CODENAME=noble\n'
OLD_UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=jammy\n'


@pytest.mark.parametrize(
    ('tools', 'release', 'incomplete', 'system', 'command'),
    [
        ([], DEBIAN, '', 'posix', 'sudo apt install python3 python3-venv'),
        ([], DEBIAN, '3.12', 'posix', 'sudo apt install python3.12-venv'),
        ([], MINT, '', 'posix', 'sudo apt install python3 python3-venv'),
        ([], OLD_UBUNTU, '3.11', 'posix', 'sudo apt install python3.11-venv'),
        ([], OLD_UBUNTU, '', 'posix', 'uv python install 3.13 (how to get uv: '),
        (['brew'], None, '', 'posix', 'brew install python@3.13'),
        ([], None, '3.12', 'posix', 'uv python install 3.13 (how'),
        ([], None, '', 'nt', 'winget install Python.Python.3.13'),
        (['uv', 'brew'], DEBIAN, '3.12', 'posix', 'uv python install 3.13'),
        (['uv'], None, '', 'nt', 'uv python install 3.13'),
    ],
)
def test_the_one_command_for_this_system_is_named(
    bootstrap, monkeypatch, tmp_path, tools, release, incomplete, system, command
):
    monkeypatch.setattr(
        bootstrap.shutil, 'which', lambda name: name if name in tools else None
    )
    monkeypatch.setattr(bootstrap, '_OS_RELEASE', tmp_path / 'os-release')
    if release:
        (tmp_path / 'os-release').write_text(release, encoding='utf-8')
    named = bootstrap._way_to_get(bootstrap.PYTHONS, incomplete, system)
    assert named.startswith(command)
    assert ('(' in named) is ('(' in command)


def test_the_python_of_debian_is_not_named_for_another(
    bootstrap, monkeypatch, tmp_path
):
    monkeypatch.setattr(bootstrap, '_OS_RELEASE', tmp_path / 'os-release')
    (tmp_path / 'os-release').write_text(DEBIAN, encoding='utf-8')
    assert 'apt' in bootstrap._way_to_get(('3.13',), '', 'posix')
    assert 'apt' not in bootstrap._way_to_get(('3.12',), '', 'posix')


@pytest.mark.parametrize(
    ('found', 'words'),
    [
        (
            [answer('3.10'), answer('3.14')],
            'Here is only 3.10 (/bin/python3.10), 3.14 (/bin/python3.14). Run this',
        ),
        (
            [answer('3.10'), answer('3.12', complete=False)],
            'Here is only 3.12 (/bin/python3.12), without venv and ensurepip. Run this',
        ),
    ],
)
def test_what_is_here_is_said_with_the_way_out(
    bootstrap, monkeypatch, capsys, found, words
):
    monkeypatch.setattr(
        bootstrap, '_candidates', lambda wanted: [[said] for said in found]
    )
    monkeypatch.setattr(bootstrap, '_output', lambda command: command[0])
    monkeypatch.setattr(
        bootstrap, 'ensure_environment', lambda _: bootstrap.find_python()
    )
    with pytest.raises(SystemExit) as caught:
        bootstrap.ready_python()
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert 'needs Python 3.11, 3.12 or 3.13. ' + words in captured.err
    assert ' install ' in captured.err
    assert captured.out == ''


def test_a_python_that_makes_no_environment_is_said(bootstrap, monkeypatch, tmp_path):
    root = Checkout(tmp_path / 'new', tmp_path).root
    script = tmp_path / 'broken.py'
    script.write_text("print('No module named _ctypes')", encoding='utf-8')
    python = bootstrap._Python(sys.executable, THIS_PYTHON, '', '', True)
    monkeypatch.setattr(bootstrap, 'find_python', lambda wanted: python)
    real = subprocess.run
    monkeypatch.setattr(
        bootstrap.subprocess,
        'run',
        lambda command, **keywords: real([command[0], str(script)], **keywords),
    )
    with pytest.raises(
        bootstrap.BootstrapError, match=r'starts in .*: No module named _'
    ):
        bootstrap.ensure_environment(root=root)


def test_ctrl_c_while_preparing_is_no_failure(bootstrap, monkeypatch, capsys):
    def interrupt(version):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, 'ensure_environment', interrupt)
    with pytest.raises(SystemExit) as caught:
        bootstrap.ready_python()
    assert caught.value.code == 130
    assert 'The same command again goes on' in capsys.readouterr().err


@pytest.mark.parametrize('path', sorted(TOOLS.glob('*.py')), ids=lambda path: path.stem)
def test_an_old_python_can_go_on_in_the_environment(path):
    ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 6))


@pytest.mark.parametrize('name', ['bootstrap', 'quickstart', 'run_tests'])
def test_an_old_python_can_make_the_environment(name):
    source = (TOOLS / f'{name}.py').read_text(encoding='utf-8')
    tree = ast.parse(source, feature_version=(3, 6))
    # Annotations are evaluated when a function is defined: no X | Y, no list[X].
    for node in ast.walk(tree):
        for kind in ('annotation', 'returns'):
            annotation = getattr(node, kind, None)
            assert isinstance(annotation, NoneType | ast.Name | ast.Constant)


def test_where_an_environment_keeps_its_python(bootstrap):
    windows, linux = PureWindowsPath('C:/a b/.venv'), PurePosixPath('/a b/.venv')
    assert (
        str(bootstrap.venv_python(windows, 'nt')) == r'C:\a b\.venv\Scripts\python.exe'
    )
    assert str(bootstrap.venv_python(linux, 'posix')) == '/a b/.venv/bin/python'


@pytest.mark.parametrize(
    ('output', 'reason'),
    [
        ('ERROR: [Errno 28] No space left on device', 'No room on the disk'),
        ('[WinError 112] There is not enough space on the disk', 'No room on the disk'),
        (
            "HTTPSConnectionPool(host='mirror.example', port=443): Max retries exceeded"
            ' (Caused by SSLError(CertificateError))\n'
            'ERROR: No matching distribution found for torch==1.0',
            r'cannot be reached \(mirror.example:443\)',
        ),
        ("('Connection broken: IncompleteRead(10 bytes read)')", 'cannot be reached'),
        ('ERROR: No matching distribution found for torch==1.0', 'no torch==1.0 for'),
        ('error: command gcc failed', '^$'),
    ],
)
def test_what_pip_says_is_explained(bootstrap, output, reason):
    assert re.search(reason, bootstrap.explain(output))


def test_a_disk_that_fills_while_installing_is_said(bootstrap, monkeypatch, capsys):
    def fill_up(version):
        raise OSError(28, 'No space left on device', '.venv')

    monkeypatch.setattr(bootstrap, 'ensure_environment', fill_up)
    with pytest.raises(SystemExit) as caught:
        bootstrap.ready_python()
    assert caught.value.code == 2
    assert 'No room on the disk' in capsys.readouterr().err


# Run again by itself, in the environment.
SCRIPT = """
import os, sys
print('began')
from bootstrap import enter_environment
enter_environment()
print(os.getpid(), sys.prefix, sys.argv[1:], sep='|')
sys.exit(7)
"""


def test_a_script_goes_on_in_the_environment_as_one_process(checkout):
    script = checkout.root / 'tools' / 'script.py'
    script.write_text(SCRIPT, encoding='utf-8')
    with subprocess.Popen(
        # -S: a Python without the packages of this one.
        [sys.executable, '-S', str(script), 'two words', '--flag'],
        stdout=subprocess.PIPE,
        text=True,
        env=checkout.environ(PYTHONUNBUFFERED=''),  # what is printed is kept back
    ) as process:
        output, _ = process.communicate(timeout=60)
    script.unlink()
    assert process.returncode == 7
    *before, last = output.splitlines()
    assert before == ['began', 'began']
    pid, prefix, arguments = last.split('|')
    assert Path(prefix).samefile(checkout.venv)
    assert arguments == "['two words', '--flag']"
    # One process, so that no signal leaves a training behind.
    assert (int(pid) == process.pid) is (os.name != 'nt')


def test_a_command_runs_where_it_is_told_and_its_code_comes_back(bootstrap, tmp_path):
    code = 'import pathlib, sys; pathlib.Path("here").touch(); sys.exit(7)'
    assert bootstrap.run([sys.executable, '-c', code], cwd=tmp_path) == 7
    assert (tmp_path / 'here').exists()


@pytest.mark.skipif(os.name == 'nt', reason='needs signals')
def test_a_command_ended_by_a_signal_gets_the_code_of_the_shell(bootstrap, tmp_path):
    code = 'import os, signal; os.kill(os.getpid(), signal.SIGTERM)'
    assert bootstrap.run([sys.executable, '-c', code], cwd=tmp_path) == 128 + 15


RUN = """
import sys
from pathlib import Path
from bootstrap import run
sys.exit(run([sys.executable, '-c', sys.argv[1]], cwd=Path.cwd()))
"""
TERMINATED = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == 'nt', reason='needs signals')
def test_a_command_is_told_to_end_when_its_starter_is(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', RUN, TERMINATED],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(TOOLS)},
        timeout=60,
    )
    assert done.returncode == 9


@pytest.fixture
def run_tests(bootstrap, monkeypatch):
    """tools/run_tests.py: the version it asks for, and what pytest gets."""

    def run(*arguments):
        asked = []
        monkeypatch.setattr(
            bootstrap, 'ready_python', lambda v: asked.append(v) or 'python'
        )
        monkeypatch.setattr(bootstrap, 'run', lambda command, cwd: (*asked, *command))
        monkeypatch.setattr(sys, 'argv', ['run_tests.py', *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TOOLS / 'run_tests.py'), run_name='__main__')
        return caught.value.code

    return run


@pytest.mark.parametrize(
    ('arguments', 'version', 'others'),
    [
        ((), '', ()),
        (('tests/core', '-k', 'a b', '-p', 'no:x', '--py', '-h', '--', '-c'), '', None),
        (('--python', '3.12', '-x'), '3.12', ('-x',)),
        (('tests', '--python=3.13', '-x'), '3.13', ('tests', '-x')),
    ],
)
def test_all_arguments_but_the_python_go_to_pytest(
    run_tests, arguments, version, others
):
    expected = (version, 'python', '-m', 'pytest')
    assert run_tests(*arguments) == expected + (arguments if others is None else others)


def test_tests_on_an_unsupported_python_are_refused(run_tests, capsys):
    assert run_tests('--python', '3.10') == 2
    assert "'3.10'" in capsys.readouterr().err

"""The project's Python environment, made and mended with the standard library alone.

``ensure_environment`` gives the Python of ``.venv`` and installs what
``requirements/`` pins where that is not there yet. This file runs on Python 3.6, so
that an old Python can find a newer one, or say which one to get.
"""

import collections
import contextlib
import csv
import errno
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ('3.13', '3.12', '3.11')  # supported, the best first
FRESH_INSTALL_GB = 2.5
RUN_THIS = 'Run this, then the same command again: '
PYTORCH_INDEX = 'https://download.pytorch.org/whl'

_LOCK = 'bootstrap.lock'
_Python = collections.namedtuple(
    '_Python', 'path version prefix site_packages makes_environments'
)
_PROBE = (  # of a virtual environment, the path is that of the Python it was made from
    'import json, sys, sysconfig; from importlib.util import find_spec; '
    'print(json.dumps([getattr(sys, "_base_executable", sys.executable), '
    '"%d.%d" % sys.version_info[:2], sys.prefix, sysconfig.get_path("purelib"), '
    'bool(find_spec("venv") and find_spec("ensurepip"))]))'
)
_OS_RELEASE = Path('/etc/os-release')
# Releases of Debian and Ubuntu with a supported python3. That of later ones is newer.
_APT_PYTHONS = {'bookworm': '3.11', 'noble': '3.12', 'trixie': '3.13'}
_WHEEL = re.compile(  # name, version and, where it is downloaded, size
    r'\s*(?:Downloading|Using cached|Processing) (?:\S*/)?'
    r'([^-\s]+)-([^-\s]+)-\S+\.whl(?!\.)(?: (\(\S+ \wB\)))?'
)
_DISK_FULL = re.compile(r'No space left on device|not enough space on the disk')
_UNREACHABLE = re.compile(
    r'Max retries exceeded|Read timed out|Connection (broken|reset)|ProtocolError'
    r'|Failed to (connect|resolve|establish)|problem confirming the ssl certificate'
)
_NOT_SERVED = re.compile(r'No matching distribution found for (\S+)')


class BootstrapError(RuntimeError):
    """The environment cannot be made; the message says why and the way out."""


class _OutlivingStream:
    """A stream whose reader may go, as that of ``sapiens_plugin.workbench.command``.

    Args:
        stream (TextIO): ``sys.stdout`` or ``sys.stderr``.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._outlive(self._stream.write, text)

    def flush(self):
        self._outlive(self._stream.flush)

    def _outlive(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter on Windows
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def outlive_readers() -> None:
    """Go on when nobody reads any more what this program prints, as behind ``head``."""
    for name in ('stdout', 'stderr'):
        # There is none where it was closed from the start.
        stream = getattr(sys, name) or open(os.devnull, 'w', encoding='utf-8')
        setattr(sys, name, _OutlivingStream(stream))


def ready_python(version: str = '') -> Path:
    """Return ``ensure_environment(version)``; where it fails, say why and exit.

    The code is 2, and 130 after Ctrl-C.
    """
    outlive_readers()
    try:
        return ensure_environment(version)
    except BootstrapError as error:
        message = str(error)
    except OSError as error:
        message = f'Cannot write the environment: {error}. {explain(str(error))}'
    except KeyboardInterrupt:
        _say('\nInterrupted. The same command again goes on from here.')
        sys.exit(130)
    _say(message)
    sys.exit(2)


def enter_environment() -> None:
    """Go on with the running script in the environment where it is not there yet.

    A Python of the user's own that has the plugin installed is used as it is.
    """
    if importlib.util.find_spec('sapiens_plugin') is None:
        become([str(ready_python()), *sys.argv])


def become(command: list) -> None:
    """Run a command in the place of this process, so that one signal ends it all.

    Windows cannot do that: there this process stays until the command has ended.
    """
    if os.name == 'nt':
        sys.exit(run(command, cwd=Path.cwd()))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


def ensure_environment(version: str = '', root: Path = ROOT) -> Path:
    """Make ``.venv`` what the requirements say, unless it is so already.

    Args:
        version (str): One of ``PYTHONS``, for ``.venv-VERSION`` instead, an environment
            of that Python.
        root (Path): The checkout, with ``pyproject.toml`` and ``requirements/``.

    Returns:
        Path: The environment's Python.

    Raises:
        BootstrapError: No supported Python is found, the environment holds another,
            the disk is too full, no package index answers, or pip fails in another way.
        OSError: The environment cannot be written.
    """
    environment = Environment(root, version)
    if not environment.is_ready():
        environment.path.mkdir(exist_ok=True)
        with _locked(environment.path / _LOCK) as lock:
            # Another run may have made it while this one waited for the lock.
            if not environment.is_ready():
                environment.install(lock)
    return environment.python


def run(command: list, cwd: Path) -> int:
    """Run a command to its end and return its exit code.

    Ctrl-C is left to the child, which gets it too; SIGTERM is passed on. A child that a
    signal ended counts as 128 + the signal's number, as in a shell.
    """
    process = subprocess.Popen(command, cwd=cwd)
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: process.send_signal(number)
    )
    try:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue
            return code if code >= 0 else 128 - code
    finally:
        signal.signal(signal.SIGTERM, before)


def find_python(wanted: tuple = PYTHONS):
    """Return the newest Python here that is wanted and can make an environment.

    Args:
        wanted (tuple): Versions, the best first.

    Returns:
        _Python: What it says of itself.

    Raises:
        BootstrapError: There is none; the message ends with the command that gets one.
    """
    found = []
    for python in filter(None, map(_ask, _candidates(wanted))):
        found.append(python)
        if python.version == wanted[0] and python.makes_environments:
            break  # none is better
    known = [python for python in found if python.version in wanted]
    usable = [python for python in known if python.makes_environments]
    if usable:  # of equals the first
        return min(usable, key=lambda python: wanted.index(python.version))
    here = ', '.join(f'{python.version} ({python.path})' for python in known or found)
    raise BootstrapError(
        f'This needs Python {_any_of(wanted)}. Here is only {here}'
        f'{", without venv and ensurepip" if known else ""}. '
        f'{RUN_THIS}{_way_to_get(wanted, known[0].version if known else "")}'
    )


def _any_of(versions: tuple) -> str:
    *others, last = versions[::-1]
    return ' or '.join(filter(None, [', '.join(others), last]))


def _candidates(wanted: tuple):
    """Yield commands that may start a Python: this one's, and then those of others."""
    yield [sys.executable]
    if os.name == 'nt':
        for version in wanted:
            yield ['py', f'-{version}']
    else:
        seen = {Path(sys.executable).resolve()}
        names = [*(f'python{version}' for version in wanted), 'python3']
        # Behind one that does not start, such as pyenv's, may be one that does.
        for folder, name in itertools.product(os.get_exec_path(), names):
            path = shutil.which(name, path=folder)
            if path and Path(path).resolve() not in seen:
                seen.add(Path(path).resolve())
                yield [path]
    for version in wanted:  # '', which starts nothing, where uv is not or has none
        yield [_output(['uv', 'python', 'find', '--system', version])]


def _ask(command: list):
    """Return what a Python says of itself, None where it does not start."""
    with contextlib.suppress(ValueError):  # of json: something else has answered
        return _Python(*json.loads(_output([*command, '-Ic', _PROBE])))


def _way_to_get(wanted: tuple, incomplete: str, system: str = os.name) -> str:
    """Return the one command for this system; ``incomplete`` is there without venv."""
    with_uv = f'uv python install {wanted[0]}'
    if shutil.which('uv'):
        return with_uv
    if system == 'nt':
        return f'winget install Python.Python.{wanted[0]}'
    release = _OS_RELEASE.read_text('utf-8') if _OS_RELEASE.exists() else ''
    if incomplete and re.search('^ID(_LIKE)?=.*(debian|ubuntu)', release, re.MULTILINE):
        return f'sudo apt install python{incomplete}-venv'
    for codename in re.findall(r'CODENAME="?(\w+)', release):
        if _APT_PYTHONS.get(codename) in wanted:
            return 'sudo apt install python3 python3-venv'
    if shutil.which('brew'):
        return f'brew install python@{wanted[0]}'
    return f'{with_uv} (how to get uv: https://docs.astral.sh/uv/)'


def venv_python(path: Path, system: str = os.name) -> Path:
    """Return where the environment at ``path`` keeps its Python."""
    parts = ('Scripts', 'python.exe') if system == 'nt' else ('bin', 'python')
    return path.joinpath(*parts)


class Environment:
    """The virtual environment of one checkout.

    A stamp inside it names the checkout and, once everything is installed, a digest of
    the requirements it was installed for. A run that was cut off leaves a stamp without
    that digest.

    Args:
        root (Path): The checkout.
        version (str): '' for any supported Python, which is kept once it is there.
    """

    def __init__(self, root: Path, version: str = ''):
        self.root = root
        self.path = root / (f'.venv-{version}' if version else '.venv')
        self._wanted = (version,) if version else PYTHONS
        self.python = venv_python(self.path)
        self.log = self.path / 'bootstrap.log'
        self._stamp = self.path / 'bootstrap.json'
        self._started = time.monotonic()

    def is_ready(self) -> bool:
        """Whether nothing is left to install."""
        wanted = {'root': str(self.root), 'installed': self._digest()}
        return self._read_stamp() == wanted and self._ask() is not None

    def usable(self):
        """Return the Python of an environment worth keeping, else None.

        Raises:
            BootstrapError: It is one of another Python, made by somebody else; or that
                of another checkout, by a link.
        """
        root = self._read_stamp().get('root', str(self.root))
        if root != str(self.root):
            other = Path(root, '.venv')
            if other.exists() and other.samefile(self.path):
                raise BootstrapError(
                    f'{self.path} leads to the environment of {root}, which still lies '
                    f'there. Remove the link, then run the same command again.'
                )
            return None  # moved here: its scripts start a Python at the old place
        if not self.python.with_name('activate').exists():
            return None  # cut off while it was made
        return self._ask()

    def install(self, lock) -> None:
        """Make or mend the environment, keeping the packages that are whole.

        Args:
            lock (file): The held lock; pip holds it too, for as long as it runs.
        """
        digest = self._digest()
        python, lost_torch = self.usable(), None
        base = python or find_python(self._wanted)
        if not python:
            lost_torch = self._cuda_torch()
            self._clear()
        if not python or not any(Path(python.site_packages).glob('torch-*.dist-info')):
            self._require_room()
            _say(
                f'Preparing {self.path} with Python {base.version} ({base.path}): 2 to '
                f'10 minutes and about 2 GB; several GB more where the package index '
                f'serves torch with CUDA (as for Linux).'
            )
        self._write_stamp(installed=None)
        site_packages = Path((python or self._create(base.path)).site_packages)
        drop_half_installed(site_packages)
        if not any(site_packages.glob('pip-*.dist-info')):
            self._run(['ensurepip', '--upgrade', '--default-pip'], lock)
        pip, folder = self._pip(), self.root / 'requirements'
        # torch is resolved together with all that could ask for another build of it.
        pinned = ['-r', folder / 'runtime.txt', '-r', folder / 'dev.txt']
        tested = ['-c', folder / f'constraints-{base.version}.txt']
        self._run([*pip, *pinned, *tested], lock)
        alone = ['--no-deps', '-r', folder / 'no_deps.txt']
        self._run([*pip, *alone, '--no-build-isolation', '-e', self.root], lock)
        self._write_stamp(installed=digest)
        _say(f'{self.path} is ready after {time.monotonic() - self._started:.0f} s.')
        if lost_torch:
            _say(
                f'It had to be made anew and lost its torch {lost_torch}. To have that '
                f'again: {self.python} -m pip install torch=={lost_torch} '
                f'--index-url {PYTORCH_INDEX}/{lost_torch.partition("+")[2]}'
            )

    def _digest(self) -> str:
        """Digest all that decides what is installed."""
        digest = hashlib.sha256()
        names = sorted(self.root.glob('requirements/*.txt'))
        for path in [self.root / 'pyproject.toml', *names]:
            digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
        return digest.hexdigest()

    def _read_stamp(self) -> dict:
        try:
            return json.loads(self._stamp.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}

    def _write_stamp(self, installed) -> None:
        part = self._stamp.with_suffix('.part')
        content = {'root': str(self.root), 'installed': installed}
        part.write_text(json.dumps(content), encoding='utf-8')
        part.replace(self._stamp)

    def _ask(self):
        """Ask the environment's Python; None if it does not start or is not its own."""
        python = _ask([str(self.python)])
        if not python or not self.path.samefile(python.prefix):
            return None
        if python.version not in self._wanted:
            raise BootstrapError(
                f'{self.path} holds Python {python.version}, not '
                f'{_any_of(self._wanted)}. Move it away or delete it, then run the '
                f'same command again.'
            )
        return python

    def _create(self, base: str):
        """Make the environment, without pip, and return its Python."""
        done = subprocess.run(
            [base, '-Im', 'venv', '--without-pip', str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        python = self._ask()
        if not python:
            said = done.stdout.decode('utf-8', 'replace').strip()
            raise BootstrapError(
                f'{base} made no environment that starts in {self.path}: '
                f'{explain(said) or said or "install that Python again."}'
            )
        return python

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()

    def _cuda_torch(self):
        """Return the version of the CUDA build of torch in here, None without one."""
        for path in self.path.glob('[Ll]ib/**/site-packages/torch-*+cu*.dist-info'):
            return path.name[len('torch-') : -len('.dist-info')]
        return None

    def _require_room(self) -> None:
        free = shutil.disk_usage(self.path).free / 1e9
        if free < FRESH_INSTALL_GB:
            raise BootstrapError(
                f'No room on the disk: {self.path} needs {FRESH_INSTALL_GB} GB, and '
                f'{free:.1f} GB are free. Make room, then run the same command again.'
            )

    def _pip(self) -> list:
        """Return ``pip install`` and the options that every call of it has."""
        options = ['--no-input', '--disable-pip-version-check', '--log', self.log]
        # pip waits 15 s for an index, six times over, before it says that there is
        # none. Three will do, unless the user has set another number.
        if 'retries' not in _output([str(self.python), '-Im', 'pip', 'config', 'list']):
            options += ['--retries', '2']
        return ['pip', *options, 'install', '--progress-bar', 'off']

    def _run(self, module: list, lock) -> None:
        """Run a module in the environment, showing the lines that tell of progress."""
        with contextlib.suppress(FileNotFoundError):
            self.log.unlink()
        lines = []
        with subprocess.Popen(
            # -I: PYTHONPATH and the working directory hold nothing that is installed.
            [str(part) for part in [self.python, '-I', '-X', 'utf8', '-m', *module]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding='utf-8',
            errors='replace',
            # If this process is killed, the next one waits for the pip it left behind.
            pass_fds=() if os.name == 'nt' else (lock.fileno(),),
        ) as process:
            for line in process.stdout:
                lines.append(line)
                _show_progress(line, time.monotonic() - self._started)
        if process.returncode:
            output = ''.join(lines)
            if self.log.exists():
                output += self.log.read_text(encoding='utf-8', errors='replace')
            reason = explain(output) or ' '.join(map(str.strip, lines[-3:]))
            raise BootstrapError(f'{reason} All that pip said is in {self.log}')


def drop_half_installed(site_packages: Path) -> None:
    """Make pip forget the packages that a killed pip left incomplete.

    pip takes a package for installed as soon as its metadata is there. It writes
    INSTALLER and the RECORD that lists it last, so a RECORD without it, and one whose
    files are missing or were emptied by a power cut, belong to a broken package.
    """
    for leftover in site_packages.glob('~*'):  # what pip was uninstalling
        shutil.rmtree(leftover, ignore_errors=True)
    for metadata in site_packages.glob('*.dist-info'):
        if not _is_whole(metadata):
            shutil.rmtree(metadata)


def _is_whole(metadata: Path) -> bool:
    record = metadata / 'RECORD'
    if not record.exists():
        return False
    rows = [*csv.reader(record.read_text(encoding='utf-8').splitlines())]
    for name, _, size in rows:
        path = metadata.parent / name
        if size and not (path.is_file() and (path.stat().st_size or size == '0')):
            return False
    return any(name == f'{metadata.name}/INSTALLER' for name, _, _ in rows)


def explain(output: str) -> str:
    """Say what made pip fail and the way out, '' where its output does not tell."""
    if _DISK_FULL.search(output):
        return (
            'No room on the disk. Make some (the folder for temporary files counts '
            'too: TMPDIR, on Windows TEMP, can name another), then run the same '
            'command again; it goes on from here.'
        )
    if _UNREACHABLE.search(output):
        hosts = re.findall(r"host='([^']+)', port=(\d+)", output)
        index = ':'.join(hosts[-1]) if hosts else 'the index'
        return (
            f'The package index cannot be reached ({index}). Check the network; behind '
            f'a proxy set HTTPS_PROXY, and for a mirror PIP_INDEX_URL. With no network '
            f'at all, bring the wheels in a folder and set PIP_NO_INDEX=1 and '
            f'PIP_FIND_LINKS to it. Then run the same command again; it goes on from '
            f'here.'
        )
    missing = _NOT_SERVED.search(output)
    if missing:
        return (
            f'The package index has no {missing[1]} for this machine and Python '
            f'({platform.platform()} {platform.architecture()[0]}).'
        )
    return ''


def _show_progress(line: str, seconds: float) -> None:
    wheel = _WHEEL.match(line)
    if wheel:
        _say(f'{seconds:6.0f} s  {" ".join(filter(None, wheel.groups()))}')
    elif line.startswith('Installing collected packages:'):
        count = line.count(',') + 1
        _say(f'{seconds:6.0f} s  installing {count} packages, which is silent')


def _output(command: list) -> str:
    """Return what a command prints, '' if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.decode('utf-8', 'replace').strip()


@contextlib.contextmanager
def _locked(path: Path):
    """Hold the lock at ``path``. The system frees it when the last holder ends.

    Of its own kind, since no package is installed yet; else there is core/utils/alone.
    """
    with path.open('a') as file:
        if not _try_lock(file):
            _say(f'Another run is preparing {path.parent}; waiting for it to end.')
            while not _try_lock(file):
                time.sleep(0.2)
        yield file


if os.name == 'nt':
    import msvcrt

    def _try_lock(file) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == '__main__':
    print(ready_python())

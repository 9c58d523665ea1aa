"""Is what is installed what is pinned? Asked of the packages' metadata alone."""

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from .gpu_probe import cuda_torch, nvidia_gpus
from .setup_report import Check, Commands

# Compiled packages, which can be installed and yet not start.
_COMPILED = {
    'torch': 'torch',
    'opencv-python': 'cv2',
    'pycocotools': 'pycocotools.mask',
    'hotcoco': 'hotcoco',
}
# What they raise then: a library is missing, or another NumPy than they were built for.
_NO_START = (ImportError, OSError, ValueError, AttributeError)
_FILES = {'runtime.txt': [], 'no_deps.txt': ['--no-deps']}


def check_python(
    supported: Sequence[str],
    commands: Commands,
    version: tuple[int, int, int] = sys.version_info[:3],
) -> Check:
    """Check that this Python is one of those that the pinned packages are for."""
    found = '.'.join(map(str, version))
    if found.rpartition('.')[0] in supported:
        return Check('Python', 'ok', found)
    detail = f'{found}; supported are {", ".join(sorted(supported))}'
    return Check('Python', 'fail', detail, commands.tool('bootstrap.py'))


def check_plugin(location: str | Path, commands: Commands) -> Check:
    """Check that the package in use is that of this checkout.

    Args:
        location: Where ``sapiens_plugin`` was imported from.
        commands: Those of this checkout.
    """
    used = Path(location).resolve().parent.parent
    if used == commands.root.resolve():
        return Check('plugin', 'ok', f'from {used}')
    return Check(
        'plugin',
        'warn',
        f'this Python uses the copy in {used}, not the one beside this tool',
        commands.pip('--no-deps', '--no-build-isolation', '-e', commands.root),
    )


def check_packages(commands: Commands) -> list[Check]:
    """Compare what is installed with ``requirements/{runtime,no_deps}.txt``.

    Returns:
        A line for each package that is missing or not as pinned; one line if all are
        right.
    """
    checks, count = [], 0
    for text, requirement, options in _pins(commands.root / 'requirements'):
        count += 1
        version = installed_version(requirement.name)
        if version is None:
            found = 'is not installed'
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f'is {version}'
        else:
            continue
        wanted = [text]
        if requirement.name == 'torch' and nvidia_gpus():
            wanted = cuda_torch(str(requirement.specifier).removeprefix('=='))
        checks.append(
            Check(
                requirement.name,
                'fail',
                f'{found}; pinned is {requirement.specifier}',
                commands.pip(*options, *wanted),
            )
        )
    return checks or [Check('packages', 'ok', f'{count} of {count} as pinned')]


def check_imports(commands: Commands) -> list[Check]:
    """Import what is compiled.

    Returns:
        A line for each package that does not start.
    """
    checks = []
    for name, module in _COMPILED.items():
        try:
            importlib.import_module(module)
        except _NO_START as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if re.search(r'lib(GL|gthread|glib)\b', reason):  # a server without screen
                mend = 'sudo apt install libgl1 libglib2.0-0'
            else:
                version = installed_version(name)
                again = ('--force-reinstall', '--no-deps', f'{name}=={version}')
                mend = commands.pip(*again)
            checks.append(Check(name, 'fail', f'does not start: {reason}', mend))
    return checks


def is_complete(root: Path) -> bool:
    """Whether every pinned package is installed, in whatever version."""
    return all(
        installed_version(requirement.name) is not None
        for _, requirement, _ in _pins(root / 'requirements')
    )


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, None without one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins(folder: Path) -> Iterator[tuple[str, Requirement, list[str]]]:
    """Yield each pin as it is written and as it is read, and the options of pip."""
    for name, options in _FILES.items():
        for line in (folder / name).read_text(encoding='utf-8').splitlines():
            if line.strip() and not line.startswith('#'):
                yield line.strip(), Requirement(line), options

"""Look whether everything is in place for a job, before it starts."""

import contextlib
import importlib.util
import json
import os
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

from bootstrap import (
    PYTHONS,
    ROOT,
    RUN_THIS,
    BootstrapError,
    become,
    find_python,
    outlive_readers,
    venv_python,
)

# Where nothing is installed, there is only this to say.
_NOT_INSTALLED = 'the packages of this project are not installed'


def _enter_environment() -> None:
    """Go on in .venv, as it is: what is missing there is to be told, not installed."""
    if importlib.util.find_spec('sapiens_plugin') is not None:
        return
    folder = ROOT / '.venv'
    python = venv_python(folder)
    if python.exists() and not Path(sys.prefix).samefile(folder):
        become([str(python), *sys.argv])
    outlive_readers()
    detail, mend = _NOT_INSTALLED, f'python3 {ROOT / "tools" / "bootstrap.py"}'
    try:
        find_python()
    except BootstrapError as error:
        detail, _, mend = str(error).partition(f' {RUN_THIS}')
    if '--json' in sys.argv:
        check = dict(name='environment', status='fail', detail=detail, mend=mend)
        check['group'] = 'Environment'
        print(json.dumps(dict(ready=False, job=None, next=mend, checks=[check])))
    else:
        print(f'Not ready: {detail.rstrip(".")}. First: {mend}')
    sys.exit(1)


_enter_environment()

import argparse  # noqa: E402  (only there in the environment, as what follows)

import sapiens_plugin  # noqa: E402
from sapiens_plugin.errors import InputError  # noqa: E402
from sapiens_plugin.workbench.command import run as run_command  # noqa: E402
from sapiens_plugin.workbench.config_files import check_config_name  # noqa: E402
from sapiens_plugin.workbench.setup_check import setup_packages  # noqa: E402
from sapiens_plugin.workbench.setup_check.setup_report import (  # noqa: E402
    Check,
    Commands,
    Report,
)

EXAMPLES = """examples:
  python3 tools/check_setup.py
  python3 tools/check_setup.py configs/sapiens1b_gtx1650.py

exits with 0 where all is ready, with 1 where something is to be mended, and with 2
where the config cannot be read.
"""
# Errors of building what a config names.
_NO_JOB = (
    *(ImportError, RuntimeError, LookupError),
    *(TypeError, ValueError, AttributeError),
)


def main() -> int:
    """Look at everything; return 1 if something keeps the job from running."""
    parser = argparse.ArgumentParser(
        prog='tools/check_setup.py',
        description=textwrap.fill(
            'Look whether this machine is ready: Python and packages, GPU and driver, '
            'memory, disk, and the weights, data and folders that a config names. '
            'Installs, downloads and changes nothing; a line that says what is wrong '
            'is followed by the command that mends it, once for several. Takes '
            'seconds.',
            width=80,
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config',
        nargs='?',
        type=Path,
        metavar='CONFIG',
        help='the job; without one, only the environment and the machine',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='changes to the config, as tools/train.py takes them',
    )
    parser.add_argument('--json', action='store_true', help='write JSON for programs')
    args = parser.parse_args()
    started = time.monotonic()
    report = look(args.config, args.cfg_options)
    if args.json:
        seconds = round(time.monotonic() - started, 2)
        print(json.dumps(report.as_dict() | {'seconds': seconds}, indent=2))
    else:
        show(report)
    return 0 if report.is_ready else 1


def look(config: Path | None, options: list[str]) -> Report:
    """Look at everything.

    Raises:
        InputError: The config cannot be read, or is no job for a Sapiens.
    """
    if config is not None:
        check_config_name(config)
    commands = Commands(ROOT)
    environment = [
        setup_packages.check_python(PYTHONS, commands),
        setup_packages.check_plugin(sapiens_plugin.__file__, commands),
        *setup_packages.check_packages(commands),
    ]
    broken = [Check('all else', 'warn', 'comes when the packages above are in order')]
    groups = {'Environment': environment, 'Machine and job': broken}
    if setup_packages.is_complete(ROOT):
        faults = setup_packages.check_imports(commands)
        environment += faults
        if not faults:
            del groups['Machine and job']
            groups |= _look_at_the_rest(config, options, commands)
    if config is None:
        return Report(groups, None, commands.tool('quickstart.py'))
    changed = ['--cfg-options', *options] if options else []
    return Report(groups, str(config), commands.tool('train.py', config, *changed))


def _look_at_the_rest(
    config: Path | None, options: list[str], commands: Commands
) -> dict[str, list[Check]]:
    from sapiens_plugin.workbench.setup_check.setup_hardware import check_hardware

    if config is None:
        return {'Machine': check_hardware(None, commands)}
    from sapiens_plugin.jobs.read_config import load_config
    from sapiens_plugin.workbench.job.reader import read_job
    from sapiens_plugin.workbench.setup_check.setup_data import check_job_files

    cfg = load_config(config, _changes(options))
    job = read_job(cfg.to_dict(), config, options)
    return {
        'Machine': check_hardware(job, commands, partial(_least_memory, cfg, job)),
        'Job': [
            *_check_settings(cfg, job),
            *check_job_files(job, commands),
        ],
    }


def _check_settings(cfg, job) -> list[Check]:
    """Compare the parts of a config."""
    from sapiens_plugin.jobs.agreement import disagreements
    from sapiens_plugin.jobs.read_config import epoch_length
    from sapiens_plugin.jobs.schedule import schedule_notes
    from sapiens_plugin.workbench.setup_check.setup_data import is_soon_counted

    try:
        found = list(disagreements(cfg, 'train', 'val', 'test'))
    except _NO_JOB as error:
        found = [f'{cfg.filename} cannot be read: {type(error).__name__}: {error}']
    mend = f'correct {cfg.filename}'
    checks = [Check('settings', 'fail', text.strip(), mend) for text in found]
    checks = checks or [Check('settings', 'ok', 'sizes, keypoints and metrics agree')]
    steps = None
    with contextlib.suppress(InputError):  # check_job_files reports it
        if is_soon_counted(job):
            steps = epoch_length(cfg)
    notes = schedule_notes(cfg, steps)
    return checks + [Check('schedules', 'warn', note) for note in notes]


def _least_memory(cfg, job, dtype, capability) -> int:
    """Return the MiB that a job needs of a GPU.

    Raises:
        InputError: The job is none that can be planned.
    """
    from sapiens_plugin.jobs.read_config import stage_measurer
    from sapiens_plugin.workbench.setup_check.setup_memory import least_memory

    try:
        return least_memory(job, stage_measurer(cfg), dtype, capability)
    except InputError:
        raise
    except _NO_JOB as error:
        raise InputError(
            f'The model of {cfg.filename} cannot be built: {type(error).__name__}: '
            f'{error}'
        ) from error


def _changes(options: list[str]) -> dict:
    """Read changes to a config as tools/train.py does."""
    from mmengine.config import DictAction

    reader = argparse.ArgumentParser()
    reader.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    arguments = ['--cfg-options', *options] if options else []
    return reader.parse_args(arguments).cfg_options


def show(report: Report) -> None:
    """Print a report for a reader."""
    stream = sys.stdout
    try:
        '✔✘→'.encode(stream.encoding)
        plain = False
    except (UnicodeEncodeError, LookupError):
        plain = True
    stream.reconfigure(errors='replace')  # paths may hold any letter
    colour = stream.isatty() and 'NO_COLOR' not in os.environ
    if os.name == 'nt':
        colour = colour and 'WT_SESSION' in os.environ  # others may print the codes
    for line in report.lines(plain=plain, colour=colour):
        print(line)


if __name__ == '__main__':
    run_command('tools/check_setup.py', main)

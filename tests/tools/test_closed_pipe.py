"""What every tool prints may go to somebody who reads no more, such as ``head``."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
CONFIGS = TOOLS.parent / 'configs'
DEMO = CONFIGS / 'sapiens_tiny_demo.py'


@pytest.fixture
def run_unread(tmp_path):
    """Run a command whose output nobody reads; return its exit code and its stderr."""

    def run(
        *command: object, unread_errors: bool = False, unbuffered: str = ''
    ) -> tuple[int, str]:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                stdout=writing,
                stderr=writing if unread_errors else subprocess.PIPE,
                encoding='utf-8',
                cwd=tmp_path,
                env=os.environ | {'PYTHONUNBUFFERED': unbuffered},
                timeout=120,
                check=False,
            )
        finally:
            os.close(writing)
        return done.returncode, done.stderr or ''

    return run


def says_nothing_of_pipes(stderr: str) -> bool:
    words = 'Traceback', 'Exception ignored', 'BrokenPipe', 'Broken pipe'
    return not any(word in stderr for word in words)


@pytest.mark.parametrize(
    'name',
    # The arguments of run_tests.py are those of pytest; bootstrap.py has none.
    sorted({path.name for path in TOOLS.glob('*.py')} - {'run_tests.py'}),
)
def test_nobody_reads_the_help(name, run_unread):
    code, stderr = run_unread(TOOLS / name, '--help')
    assert code == 0
    assert says_nothing_of_pipes(stderr)


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (('plan.py', DEMO, '--gpu', 'rtx3060'), 0),
        (('plan.py', DEMO, '--gpu', 'rtx3060', '--json'), 0),
        (('plan.py', 'none.py'), 2),
        (('train.py', 'none.py'), 2),
        (('test.py', DEMO, 'none.pth'), 2),
        (('report.py', 'none'), 2),
        (('check_setup.py', 'none.py', '--json'), 2),
        (('download_coco.py', '--verify', '--root', 'none'), 2),
    ],
    ids=lambda value: ' '.join(map(str, value[::2])) if type(value) is tuple else '',
)
# What is buffered is written at the end, when nobody can catch an error any more.
@pytest.mark.parametrize('unread_errors, unbuffered', [(False, ''), (True, '1')])
def test_the_exit_code_is_as_ever(
    arguments, expected, unread_errors, unbuffered, run_unread
):
    name, *others = arguments
    code, stderr = run_unread(
        *(TOOLS / name, *others), unread_errors=unread_errors, unbuffered=unbuffered
    )
    assert code == expected
    assert says_nothing_of_pipes(stderr)
    assert unread_errors or bool(stderr) == bool(expected)


def test_what_was_asked_for_is_done(demo, run_unread, tmp_path):
    code, stderr = run_unread(
        *(TOOLS / 'check_dataset.py', demo.annotations('train'), demo.images('train')),
        *('--out', tmp_path / 'drawn', '--json', tmp_path / 'found.json'),
    )
    assert code == 0
    assert says_nothing_of_pipes(stderr)
    assert (tmp_path / 'found.json').stat().st_size
    assert list((tmp_path / 'drawn').iterdir())


@pytest.mark.skipif(sys.platform == 'win32', reason='no such shell')
@pytest.mark.parametrize('name', ['check_setup.py', 'quickstart.py --help'])
def test_there_may_be_no_output_at_all(name):
    command = f'exec {shlex.quote(sys.executable)} {TOOLS}/{name} >&-'
    done = subprocess.run(
        ['sh', '-c', command],
        stderr=subprocess.PIPE,
        encoding='utf-8',
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1)  # as this machine is ready or not
    assert done.stderr == ''


@pytest.mark.skipif(sys.platform != 'linux', reason='/dev/full is a full disk on Linux')
def test_a_full_disk_is_not_taken_for_a_reader_that_has_gone():
    with Path('/dev/full').open('w') as full:
        done = subprocess.run(
            [sys.executable, TOOLS / 'plan.py', DEMO, '--gpu', 'rtx3060', '--json'],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding='utf-8',
            timeout=120,
            check=False,
        )
    assert done.returncode != 0
    assert 'No space left on device' in done.stderr

"""What the tests of the repairs share, such as a Python without any repair."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent
REPO = HELPERS.parents[1]

without_compiled_ops = pytest.mark.skipif(
    any(Path(find_spec('mmcv').origin).parent.glob('_ext.*')),
    reason='the full mmcv is installed',
)


def environment(*paths, **variables):
    """The variables of a process that finds the package and these helpers."""
    path = os.pathsep.join(map(str, [*paths, REPO, HELPERS]))
    return {**os.environ, 'PYTHONPATH': path, **variables}


def run_python(code, *arguments, paths=()):
    """Run code in a fresh Python.

    Returns:
        Its last line of output, parsed as JSON; then all of its output.
    """
    result = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        env=environment(*paths),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout


class Call:
    """Pickles as a call that is made when it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def load_checkpoint(path, map_location=None):
    """Load a file as MMEngine's Runner does."""
    from mmengine.runner.checkpoint import CheckpointLoader

    return CheckpointLoader.load_checkpoint(str(path), map_location)

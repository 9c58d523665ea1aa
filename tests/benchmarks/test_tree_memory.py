"""The memory of several processes, with what they share counted once."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='reads the memory of processes in /proc'
)

MIB = 2**20
# Two processes have 64 MiB together, and each 32 of its own. The file says when.
FAMILY = """
import os, sys, time
shared = bytearray(os.urandom(1) * 2**26)
pid = os.fork()
own = bytearray(os.urandom(1) * 2**25)
if pid:
    time.sleep(0.2)
    open(sys.argv[1], 'w').write('both')
    os.wait()
else:
    time.sleep(2)
    os._exit(0)  # all at once: what it shared must not be seen as the other's alone
"""


@pytest.fixture
def tree_memory(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
    import tree_memory

    return tree_memory


def test_what_is_shared_counts_once(tree_memory, tmp_path):
    note = tmp_path / 'stage'
    note.write_text('start')
    found = tree_memory.watched(
        [sys.executable, '-c', FAMILY, str(note)], stage=note.read_text
    )
    assert found.returncode == 0
    both = found.peaks['both']
    assert found.peak.total == max(peak.total for peak in found.peaks.values())
    assert len(both.shares) == 2
    assert sum(both.shares) == both.total
    # 64 + 2 × 32, and what Python takes.
    assert 128 * MIB < both.total < 160 * MIB
    for share in both.shares:
        assert 64 * MIB < share < 80 * MIB
    assert 0 < both.files < 16 * MIB
    assert 0 <= found.missed < 64 * MIB


def test_a_failure_is_told(tree_memory):
    found = tree_memory.watched([sys.executable, '-c', 'raise SystemExit(3)'])
    assert found.returncode == 3


def test_the_peak_of_a_process(tree_memory):
    """In a fresh one: others may have a high peak behind them."""
    script = (
        'from tree_memory import own_peak_mib\n'
        'before = own_peak_mib()\n'
        'filled = bytearray(b"x") * int((before + 64) * 2**20)\n'
        'del filled\n'
        'print(before, own_peak_mib())\n'
    )
    folder = Path(tree_memory.__file__).parent
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=folder, capture_output=True, text=True
    )
    before, after = map(float, done.stdout.split())
    assert 5 < before < after - 32

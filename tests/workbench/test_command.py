"""Streams whose readers go."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize('unbuffered', ['', '1'])  # flush fails, or write
def test_a_program_outlives_whoever_reads_it(unbuffered, tmp_path):
    code = f"""
import sys
from pathlib import Path
from sapiens_plugin.workbench.command import OutlivingStream
sys.stdout = OutlivingStream(sys.stdout)
print('first', flush=True)
sys.stdin.readline()  # until nobody reads any more
for _ in range(3):
    print('more', flush=True)
assert sys.stdout.encoding and not sys.stdout.isatty()
Path({str(tmp_path / 'done')!r}).touch()
"""
    process = subprocess.Popen(
        [sys.executable, '-c', code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONUNBUFFERED': unbuffered},
    )
    try:
        assert process.stdout.readline().strip() == b'first'
        process.stdout.close()
        process.stdin.write(b'go on\n')
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / 'done').exists()

"""A small run of benchmarks/worker_memory.py."""

import json
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != 'linux', reason='PSS, and fork')
def test_a_small_run(repo, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, repo / 'benchmarks' / 'worker_memory.py'),
            *('--persons', '200', '--methods', 'fork', '--samples', '64'),
            *('--json', tmp_path / 'rows.json'),
        ],
        capture_output=True,
        encoding='utf-8',
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / 'rows.json').read_text(encoding='utf-8'))
    # A forked worker has little of its own, a share of the program, and takes the rest.
    assert row['method'] == 'fork' and row['persons'] == 200
    assert 1 < row['uss_mb'] < row['pss_mb'] < row['all_mb'] / 3
    assert f'| fork | 200 | 0 | {row["uss_mb"]} |' in done.stdout

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def call(repo):
    def call(work_dir: Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(repo / 'tools' / 'report.py'), str(work_dir)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


def test_the_command_prints_where_the_report_is(call, tmp_path):
    path = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    record = {'loss': 1.0, 'time': 0.1, 'epoch': 1, 'iter': 50}
    path.write_text(json.dumps(record), encoding='utf-8')
    done = call(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / 'report.html')
    assert (tmp_path / 'report.html').is_file()


def test_a_directory_without_a_run_is_refused_without_a_traceback(call, tmp_path):
    done = call(tmp_path)
    assert done.returncode == 2
    assert 'has no training log' in done.stderr
    assert 'Traceback' not in done.stderr

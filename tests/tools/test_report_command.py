import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.report.report import write_report


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


@pytest.fixture
def work_dir(tmp_path):
    path = tmp_path / 'run' / '20260101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    record = {'loss': 1.0, 'time': 0.1, 'epoch': 1, 'iter': 50}
    path.write_text(json.dumps(record), encoding='utf-8')
    return tmp_path / 'run'


def test_another_directory_than_that_of_a_run_gets_the_way_out(work_dir):
    start = work_dir / '20260101_000000'
    (work_dir.parent / 'file').touch()
    for path, says in (
        (work_dir.parent / 'no', 'does not exist'),
        (work_dir.parent / 'file', 'is a file'),
        (work_dir.parent, f'Name one of them: {work_dir}.'),
        (start, f'above it: {work_dir}.'),
        (start / 'vis_data', f'above it: {work_dir}.'),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            write_report(path)


def test_the_last_test_is_told(work_dir):
    assert 'Test AP' not in write_report(work_dir).read_text(encoding='utf-8')
    for name, found in (
        ('20260102_000000', {'coco/AP': 0.25}),
        ('20260103_000000', {'coco/AP': 0.5}),
        ('20260104_000000', {'accuracy': 1.0}),
    ):
        folder = work_dir / name
        folder.mkdir()
        path = folder / f'{name}.json'
        path.write_text(json.dumps(found), encoding='utf-8')
    page = write_report(work_dir).read_text(encoding='utf-8')
    assert 'Test AP' in page and '0.500' in page and '20260103_000000' in page


def test_a_directory_without_a_run_is_refused_without_a_traceback(call, tmp_path):
    done = call(tmp_path)
    assert done.returncode == 2
    assert 'has no training log' in done.stderr
    assert 'Traceback' not in done.stderr

"""The command that checks a data set, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'check_dataset.py'


def run(folder: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONIOENCODING': 'utf-8'},
    )


@pytest.fixture
def broken(demo, tmp_path) -> Path:
    """The demo's file, with an area of 0 for one person."""
    data = json.loads(demo.annotations('val').read_text(encoding='utf-8'))
    entry = next(e for e in data['annotations'] if e['num_keypoints'])
    entry['area'] = 0
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(data), encoding='utf-8')
    return path


def test_a_good_data_set_exits_with_0(demo, tmp_path):
    done = run(tmp_path, demo.annotations('val'), demo.images('val'), '--samples', 2)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'Nothing is wrong' in done.stdout
    out = tmp_path / 'work_dirs' / 'check_dataset' / 'person_keypoints_val'
    names = {path.name for path in out.iterdir()}
    assert names == {'sample_1.jpg', 'sample_2.jpg', 'samples.jpg'}
    assert str(Path('check_dataset', 'person_keypoints_val', 'samples.jpg')) in (
        done.stdout
    )


def test_an_error_exits_with_1_and_says_where(demo, broken, tmp_path):
    saved = tmp_path / 'report.json'
    done = run(
        *(tmp_path, broken, demo.images('val')),
        *('--out', 'here', '--json', saved, '--decode'),
    )
    assert (done.returncode, done.stderr) == (1, '')
    assert 'area of 0' in done.stdout
    report = json.loads(saved.read_text(encoding='utf-8'))
    assert not report['usable']
    (finding,) = report['findings']
    assert (finding['kind'], finding['count']) == ('area of 0', 1)
    assert finding['first'][0] in done.stdout
    assert (tmp_path / 'here' / 'samples.jpg').stat().st_size > 1000


def test_what_cannot_be_read_exits_with_2(demo, broken, tmp_path):
    broken.write_bytes(broken.read_bytes()[:-100])
    for arguments, says in (
        ([broken, demo.images('val')], 'broken.json is cut short'),
        ([tmp_path / 'no.json', demo.images('val')], 'no.json cannot be read'),
        ([demo.annotations('val'), tmp_path / 'no'], 'no is not a folder'),
        ([demo.annotations('val'), demo.images('val'), '--out', broken], 'broken.json'),
        ([demo.annotations('val')], 'required: images'),
    ):
        done = run(tmp_path, *arguments)
        assert done.returncode == 2
        assert says in ' '.join(done.stderr.split())
        assert 'Traceback' not in done.stderr


def test_the_help_says_all(tmp_path):
    done = run(tmp_path, '--help')
    assert done.returncode == 0
    for words in ('--decode', '--samples', '--seed', '--out', '--json', 'examples:'):
        assert words in done.stdout

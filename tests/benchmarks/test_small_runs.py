"""Every benchmark once, made as small as it gets: does it still find plausible figures?

A benchmark is a file of benchmarks/ that can be run. It is listed here, or has a test
file of its own.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).parents[2]
BENCHMARKS = REPO / 'benchmarks'
TINY = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=128)
# Large enough that memory can be told from noise.
SMALL = dict(embed_dims=512, num_layers=4, num_heads=4, feedforward_channels=2048)
ON_LINUX = pytest.mark.skipif(
    sys.platform != 'linux', reason='reads the memory of processes in /proc'
)

ALL = sorted(
    path.stem
    for path in BENCHMARKS.glob('*.py')
    if "__name__ == '__main__'" in path.read_text(encoding='utf-8')
)
NAMES = [
    name for name in ALL if not Path(__file__).with_name(f'test_{name}.py').exists()
]


@dataclass(frozen=True)
class SmallRun:
    """How to run a benchmark, and what to look at."""

    args: str  # TMP is an empty folder, ARCH the model
    check: Callable[[str, Path], None]  # with what it printed, and the folder
    arch: dict | None = None
    inside: bool = False  # runs in this process, which has imported torch
    marks: tuple = ()


def table(said: str, number: int = 0) -> dict[str, list[str]]:
    """Return a Markdown table's rows, by their first cell, of those that it printed."""
    tables: list[list[str]] = []
    previous = ''
    for line in said.splitlines():
        if line.startswith('|---'):
            tables.append([])
        elif line.startswith('| ') and tables and previous.startswith('|'):
            tables[-1].append(line)
        previous = line
    rows = ([cell.strip() for cell in row[1:-1].split('|')] for row in tables[number])
    return {first: cells for first, *cells in rows}


def figure(cell: str) -> float:
    """Return the number that a cell begins with."""
    return float(cell.split()[0].replace(',', ''))


def check_hash(said: str, folder: Path) -> None:
    speeds = table(said)
    assert len(speeds) == 4
    for speed, seconds in speeds.values():
        assert figure(speed) * figure(seconds) == pytest.approx(14, rel=0.2)
    assert 'A state of 0.01 GB' in said


def check_checkpoint_memory(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())['repaired']
    for task in found.values():
        assert task['seconds'] > 0
        # 12 bytes a parameter; the state is not in memory a second time.
        assert task['state_gb'] == pytest.approx(0.162, rel=0.05)
        assert task['extra_gb'] < 0.15


def check_coco_evaluation(said: str, folder: Path) -> None:
    for (run,) in json.loads((folder / 'json').read_text()).values():
        assert 0.001 < run['seconds'] < 60
        assert 0 <= run['more_mib'] < run['peak_mib'] < 3000
        assert 0.02 < run['metrics']['AP'] < 0.9
    assert '| this plugin |' in said


def check_download(said: str, folder: Path) -> None:
    (ways,) = json.loads((folder / 'json').read_text())['speed'].values()
    sent = {way: sum(runs[0]['sent'].values()) for way, runs in ways.items()}
    assert sent['curl'] > 5e6
    assert sent['bring'] == pytest.approx(sent['curl'], rel=0.01)
    assert 0.3 < sent['bring, keypoints_only'] / sent['curl'] < 0.7
    for (run,) in ways.values():
        assert 0 < run['seconds'] <= run['on_disk']
        assert 5 < run['peak_mib'] < 200


def check_adamw(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())
    assert len(found) == 8
    for row in found:
        assert 0.005 < min(row['seconds']) < 20  # of 100 M parameters
    assert [row['ratio'] for row in found[:2]] == [1, 1]
    assert 'HostAdamW, int8 moments' in said


def check_host_memory(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())['train']
    # One of the short stages may end between two looks.
    assert found['peaks'].keys() <= {'start', 'step', 'save', 'validation'}
    assert len(found['peaks']) >= 3
    for peak in found['peaks'].values():
        assert peak['total'] == sum(peak['shares'])
        assert 0.1e9 < peak['total'] < 3e9
        assert 0 < peak['files'] < peak['total']
    # The process with a loader's two workers, or with those of both loaders.
    assert 3 <= max(len(peak['shares']) for peak in found['peaks'].values()) <= 5
    assert found['missed'] < 0.5e9
    assert 'At most ' in said


def check_kills(said: str, folder: Path) -> None:
    done = json.loads((folder / 'out' / 'kills.json').read_text())
    assert [kill['same'] for kill in done['kills']] == [True]
    assert done['seconds'] > 2


def check_long_run(said: str, folder: Path) -> None:
    looks = json.loads((folder / 'json').read_text())
    assert looks[-1]['epochs'] >= 1
    assert looks[-1]['resident_mib'] > 100
    assert max(look['processes'] for look in looks) >= 2
    assert 'resident_mib' in said


def check_memory_table(said: str, folder: Path) -> None:
    rows = table(said)
    assert len(rows) == 5
    assert [figure(cell) for cell in rows['1B']] == [4.7, 4.7, 9.3, 18.6]


def check_narrow_states(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())
    otherwise = found['training']['fp32, micro-batches of 4 summed']['errors']
    narrow = found['training']['bf16 gradients, int8 moments']['errors']
    assert max(otherwise.values()) < max(narrow.values()) < 0.5
    assert len(found['moments']) == 8
    for error in found['boundaries'].values():
        assert 0 < error['median'] < error['max'] < 0.01


def check_openmp(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())
    assert found.keys() == {'ACTIVE', 'PASSIVE'}
    for (seconds,) in found.values():
        assert 0.01 < seconds < 60


def check_plan_time(said: str, folder: Path) -> None:
    (row,) = json.loads((folder / 'json').read_text())
    assert row['floor'] < row['planned']
    # Other tests run meanwhile.
    assert 0.1 < row['ratio'] < 10


def check_read_weights(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())
    (lifted,), (loaded,) = (
        found['Reading'][way] for way in ('lifted', 'torch.jit.load')
    )
    assert lifted['seconds'] > 0
    size = (folder / 'weights.pt2').stat().st_size / 2**30
    assert 0 <= lifted['extra_gib'] < 0.5 * size
    assert 0.8 * size < loaded['extra_gib'] < 2.5 * size


def check_streamed_memory(said: str, folder: Path) -> None:
    rows = json.loads((folder / 'json').read_text())
    assert len(rows) == 30
    for row in rows:
        assert 1000 < row['gpu_mib'] < 3100
        assert 1 < row['host_gb'] < 40


def check_streaming(said: str, folder: Path) -> None:
    found = json.loads((folder / 'json').read_text())
    (step,) = found['results'].values()
    assert 0.001 < min(step['seconds']) < 60
    if sys.platform == 'linux':
        assert 0.1 < step['host'] < 3
    assert len(found['engine']) == 4
    ours = found['engine'].pop('streamed in place')
    for loop in found['engine'].values():
        assert 0.1 < min(ours['cpu_seconds']) / min(loop['cpu_seconds']) < 10


def check_verify(said: str, folder: Path) -> None:
    rows = table(said)
    for way in ('check_images', 'unzip -tq'):
        assert figure(rows[way][0]) > 100
        assert 5 < figure(rows[way][1]) < 200


RUNS = {
    'checkpoint_hash': SmallRun('--gb 0.01 --folder TMP', check_hash, inside=True),
    'checkpoint_memory': SmallRun(
        '--ways repaired --folder TMP --json TMP/json --arch ARCH',
        check_checkpoint_memory,
        arch=SMALL,
        inside=True,
        marks=(ON_LINUX,),
    ),
    'coco_evaluation': SmallRun(
        '--images 20 --poses 200 --runs 1 --json TMP/json', check_coco_evaluation
    ),
    'download_coco': SmallRun(
        '--parts speed --scale 2000 --runs 1 --json TMP/json --lines no_limit',
        check_download,
    ),
    'host_adamw': SmallRun(
        '--layers 1 --rounds 1 --json TMP/json --arch ARCH',
        check_adamw,
        arch=SMALL,
        inside=True,
    ),
    'host_memory': SmallRun(
        '--config CONFIG --parts train --scale 1000 --steps 2 --work-dir TMP/work '
        '--json TMP/json --arch ARCH',
        check_host_memory,
        arch=TINY,
        marks=(ON_LINUX,),
    ),
    # Three trainings from beginning to end, each of which imports MMPose.
    'kill_and_resume': SmallRun(
        '--kills 1 --epochs 2 --out TMP/out', check_kills, marks=(pytest.mark.slow,)
    ),
    # A training has to start, and to be looked at for some epochs.
    'long_run': SmallRun(
        '--minutes 1.5 --every 2 --pictures 64 --json TMP/json',
        check_long_run,
        marks=(pytest.mark.slow,),
    ),
    'memory_table': SmallRun('', check_memory_table, inside=True),
    'narrow_states': SmallRun(
        '--steps 2 --moment-steps 10 --json TMP/json', check_narrow_states, inside=True
    ),
    'openmp_wait': SmallRun(
        '--runs 1 --steps 2 --json TMP/json', check_openmp, inside=True
    ),
    'plan_time': SmallRun(
        '--models tiny --rounds 1 --json TMP/json', check_plan_time, inside=True
    ),
    'read_weights': SmallRun(
        '--runs 1 --file TMP/weights.pt2 --json TMP/json --arch ARCH',
        check_read_weights,
        arch=SMALL,
        inside=True,
        marks=(ON_LINUX,),
    ),
    'streamed_memory': SmallRun('--json TMP/json', check_streamed_memory, inside=True),
    'streaming': SmallRun(
        '--device cpu --img-size 64 48 --batch 2 --micro-batch 1 --steps 1 '
        '--repeats 1 --only streamed --json TMP/json --arch ARCH',
        check_streaming,
        arch=TINY,
        inside=True,
    ),
    'verify_images': SmallRun('--files 300 --kilobytes 2 --runs 1', check_verify),
}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=RUNS[name].marks if name in RUNS else ())
        for name in NAMES
    ],
)
def test_small_run(name, tmp_path, monkeypatch, capsys):
    assert name in RUNS, (
        f'benchmarks/{name}.py has no small run. Add one to RUNS, or a file '
        f'tests/benchmarks/test_{name}.py.'
    )
    run = RUNS[name]
    words = {
        'ARCH': json.dumps(run.arch),
        'CONFIG': str(REPO / 'configs' / 'sapiens0.3b_gtx1650_week.py'),
        'no_limit': 'no limit',
    }
    args = [
        words.get(word, word.replace('TMP', str(tmp_path))) for word in run.args.split()
    ]
    script = BENCHMARKS / f'{name}.py'
    if run.inside:
        threads = torch.get_num_threads()
        monkeypatch.setattr(sys, 'argv', [str(script), *args])
        monkeypatch.syspath_prepend(BENCHMARKS)
        try:
            runpy.run_path(str(script), run_name='__main__')
        finally:
            torch.set_num_threads(threads)
        said = capsys.readouterr().out
    else:
        done = subprocess.run(
            [sys.executable, script, *args],
            capture_output=True,
            encoding='utf-8',
            env={**os.environ, 'PYTHONUTF8': '1'},
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout
    run.check(said, tmp_path)


def test_no_small_run_is_left_over():
    assert RUNS.keys() <= set(NAMES)


def test_the_docs_list_every_benchmark():
    listed = (REPO / 'docs' / 'benchmarks.md').read_text(encoding='utf-8')
    assert [name for name in ALL if f'`{name}.py`' not in listed] == []

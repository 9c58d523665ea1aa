"""The measurements for a GPU, run on the CPU: their results, and how they fail."""

import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='it is made for Linux: process groups, /proc'
)

REPO = Path(__file__).parents[2]
GPU_CHECK = REPO / 'benchmarks' / 'gpu_check'
# One task dies, the other goes on after a part that fails.
FAILING = """
import os

def run(spec, report):
    if os.environ.get('OMP_NUM_THREADS') == '4':
        print('the last words', flush=True)
        os._exit(3)
    with report.part('first'):
        raise ValueError('no luck')
    report.add(second=2)
"""
HANGING = """
import subprocess

def run(spec, report):
    child = subprocess.Popen(['sleep', '600'])
    report.add(started=True)
    with open({pid!r}, 'w') as file:
        print(child.pid, file=file, flush=True)
    child.wait()
"""


def measure(out, only, *, folder=GPU_CHECK, dry=True, seconds=3000):
    """Run the command; return its exit code, its output and what it found."""
    command = [sys.executable, folder / 'gpu_check.py', '--out', out, '--only', only]
    command += ['--seconds', str(seconds), *(['--dry-run'] if dry else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    path = out / 'results.json'
    results = json.loads(path.read_text()) if path.is_file() else None
    return done.returncode, done.stdout + done.stderr, results


def assert_complete(results, names):
    assert results['failed'] == []
    assert [entry['task'] for entry in results['log']] == names
    assert {entry['how'] for entry in results['log']} == {'rc 0'}
    assert sorted(results['results']) == sorted(names)
    for task in results['results'].values():
        assert task['complete']
        assert not [part for part in task if part.endswith('FAILED')]


@pytest.fixture
def copied(tmp_path):
    """The scripts in a folder of a checkout, where prepare.sh puts them."""
    for name in ('benchmarks', 'configs', 'sapiens_plugin', 'tests'):
        (tmp_path / name).symlink_to(REPO / name)
    return Path(shutil.copytree(GPU_CHECK, tmp_path / '.gpu'))


def test_a_part_of_the_dry_run(tmp_path):
    code, output, results = measure(tmp_path, '1_correctness,2_facts,2_adamw_all')
    assert code == 0, output
    assert_complete(results, ['1_correctness', '2_facts', '2_adamw_all'])
    assert [path.name for path in tmp_path.iterdir()] == ['results.json']
    found = results['results']

    steps = found['1_correctness']['float32, deterministic']
    exact, compact = steps['exact at 258 MiB'], steps['compact at 258 MiB']
    assert exact['layout']['slots'] < 6  # some blocks come and go
    for compared in (steps['resident_again'], exact):
        assert compared['equal'] == compared['tensors'] > 50
        assert compared['worst'] == 0
        assert compared['finite']
    assert exact['norm'] == pytest.approx(steps['norm'])
    assert exact['norm'] > 0
    assert 0 < compact['median'] < compact['worst'] < 0.01
    optimizer = steps['optimizers']['cpu_fused']
    assert optimizer['worst'] < 1e-6
    assert optimizer['tensors'] == 40

    assert found['2_facts']['torch'] == torch.__version__
    rates = {**found['2_facts']['copies'], **found['2_facts']['couriers']}
    assert len(rates) >= 12
    assert min(rates.values()) > 0
    seconds = found['2_adamw_all']['seconds_for_100M']
    assert len(seconds) == 3
    assert min(seconds.values()) > 0


def test_what_fails_is_named(copied, tmp_path):
    (copied / 'gpu_tasks' / 'host_optimizer.py').write_text(FAILING)
    code, output, results = measure(tmp_path / 'out', '2_adamw', folder=copied)
    assert code == 1
    assert results['failed'] == ['2_adamw_4: rc 3', '2_adamw_all: first']
    assert all(f'FAILED  {failure}' in output for failure in results['failed'])
    found = results['results']
    assert 'complete' not in found['2_adamw_4']
    assert found['2_adamw_4 log'] == 'the last words\n'
    assert 'ValueError: no luck' in found['2_adamw_all']['first FAILED']
    assert found['2_adamw_all']['second'] == 2
    assert found['2_adamw_all']['complete']


def test_a_second_call_adds_to_the_results(copied, tmp_path):
    task = copied / 'gpu_tasks' / 'host_optimizer.py'
    task.write_text(FAILING)
    measure(tmp_path / 'out', '2_adamw', folder=copied)
    task.write_text('def run(spec, report):\n    report.add(third=3)\n')
    code, _, results = measure(tmp_path / 'out', '2_adamw_4', folder=copied)
    assert code == 0
    assert results['failed'] == ['2_adamw_all: first']
    assert [entry['task'] for entry in results['log']] == ['2_adamw_all', '2_adamw_4']
    assert sorted(results['results']) == ['2_adamw_4', '2_adamw_all']
    assert results['results']['2_adamw_4']['third'] == 3
    assert results['results']['2_adamw_all']['second'] == 2

    # What there is no time for keeps what it has.
    code, _, results = measure(tmp_path / 'out', '2_adamw_4', folder=copied, seconds=20)
    assert code == 1
    assert results['failed'] == ['2_adamw_all: first', '2_adamw_4: left out']
    assert results['results']['2_adamw_4']['third'] == 3


def test_what_is_left_out_is_named(tmp_path):
    code, output, results = measure(tmp_path, '2_adamw_4', seconds=20)
    assert code == 1
    assert 'FAILED  2_adamw_4: left out' in output
    assert results['failed'] == ['2_adamw_4: left out']


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != 'zombie'


@pytest.mark.parametrize(
    'end, code',
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9), (None, 1)],
    ids=['Ctrl-C', 'SIGTERM', 'SIGKILL', 'time limit'],
)
def test_no_process_is_left(copied, tmp_path, end, code):
    pid_file, out = tmp_path / 'pid', tmp_path / 'out'
    hanging = HANGING.format(pid=str(pid_file))
    (copied / 'gpu_tasks' / 'host_optimizer.py').write_text(hanging)
    if end is None:
        schedule = copied / 'schedule.py'
        schedule.write_text(schedule.read_text().replace('limit=300', 'limit=2'))
    command = [sys.executable, copied / 'gpu_check.py', '--dry-run', '--out', out]
    with subprocess.Popen([*command, '--only', '2_adamw_all']) as check:
        deadline = time.monotonic() + 60
        while not pid_file.is_file() or not pid_file.read_text().endswith('\n'):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if end is not None:
            check.send_signal(end)
        assert check.wait(30) == code
    pid = int(pid_file.read_text())
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if end != signal.SIGKILL:
        assert [path.name for path in out.iterdir()] == ['results.json']
        results = json.loads((out / 'results.json').read_text())
        how = 'interrupted' if end else 'cut off'
        assert results['failed'] == [f'2_adamw_all: {how}']
        assert results['results']['2_adamw_all'] == dict(started=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device here')
def test_without_a_gpu_nothing_is_started(tmp_path):
    code, output, results = measure(tmp_path, '2_facts', dry=False)
    assert code == 2
    assert 'There is no CUDA device to measure: ' in output
    assert '--dry-run' in output
    assert results is None


def test_a_prefix_of_no_task_is_an_error(tmp_path):
    code, output, _ = measure(tmp_path, '4_')
    assert code == 2
    assert 'no task begins with 4_' in output


def test_the_readme_lists_every_task():
    tasks = runpy.run_path(str(GPU_CHECK / 'schedule.py'))['TASKS']
    table = (GPU_CHECK / 'README.md').read_text()
    limits = {}
    for row in table.splitlines():
        _, *cells, _ = row.split('|') if row.startswith('| `') else ('', '')
        for name in cells[0].replace('*', '').split(',') if cells else ():
            limits[name.strip(' `')] = cells[-1].strip()
    assert limits == {task.name: f'{task.limit} s' for task in tasks}


@pytest.mark.slow
def test_the_whole_dry_run(tmp_path):
    tasks = runpy.run_path(str(GPU_CHECK / 'schedule.py'))['dry_tasks']()
    code, output, results = measure(tmp_path, '')
    assert code == 0, output
    assert len(tasks) > 10
    assert_complete(results, [task.name for task in tasks])
    found = results['results']
    assert found['1_tests']['rc'] == 0
    assert found['1_tests']['failures'] == []
    assert '3 passed' in found['1_tests']['summary'][-1]
    memory = found['1_memory_0']['sapiens1b_minimal, float32']
    assert memory['passes']['phase 2']['predicted'] > 0
    for name in ('2_resident', '2_streamed', '2_four_cores', '2_no_limit'):
        medians = [p['median'] for p in found[name].values() if isinstance(p, dict)]
        assert medians
        assert min(medians) > 0
    assert found['2_plan']['fp32']['total_hours'] > 0

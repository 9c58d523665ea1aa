"""The quickstart's own part, on steps that note what they were asked for."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

# Every step appends its arguments to calls.txt; these are what else it does.
STEPS = {
    'sapiens_plugin/workbench/demo/make_demo.py': '',
    'tools/train.py': """
work_dir.mkdir(parents=True, exist_ok=True)
(work_dir / 'epoch_9.pth').touch()
(work_dir / 'best_coco_AP_epoch_9.pth').touch()
""",
    'tools/test.py': """
pictures = pathlib.Path(sys.argv[sys.argv.index('--show-dir') + 1])
pictures.mkdir()
(pictures / 'one.jpg').touch()
out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])
out.write_text('{"coco/AP": 0.81249, "coco/AR": 0.9}', encoding='utf-8')
""",
    'sapiens_plugin/workbench/report/training_curve.py': '',
}
PREAMBLE = """
import pathlib, sys
with open('calls.txt', 'a', encoding='utf-8') as file:
    file.write(' '.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + '\\n')
work_dir = pathlib.Path('work_dirs/sapiens_tiny_demo')
"""


@pytest.fixture
def quickstart(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module('quickstart')


@pytest.fixture
def root(tmp_path) -> Path:
    for name, action in STEPS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PREAMBLE + action, encoding='utf-8')
    return tmp_path


def calls(root: Path) -> list[str]:
    text = (root / 'calls.txt').read_text(encoding='utf-8')
    return text.replace('\\', '/').replace(root.as_posix(), 'ROOT').splitlines()


def test_every_step_runs_in_its_turn(quickstart, root, capfd):
    assert quickstart.quickstart(root, Path(sys.executable)) == 0.81249
    work_dir = 'work_dirs/sapiens_tiny_demo'
    assert calls(root) == [
        'make_demo.py data/demo',
        'train.py configs/sapiens_tiny_demo.py',
        f'test.py configs/sapiens_tiny_demo.py {work_dir}/best_coco_AP_epoch_9.pth '
        f'--show-dir ROOT/{work_dir}/predictions --out {work_dir}/test_metrics.json',
        f'training_curve.py {work_dir}',
    ]
    output = capfd.readouterr().out
    # Each is announced before it runs, and what it made is named.
    assert [*re.findall(r'== step (\d) of 4', output)] == ['1', '2', '3', '4']
    assert len(re.findall(r'^\$ .*python', output, re.MULTILINE)) == 4
    assert len(re.findall(r'^== \d+ s$', output, re.MULTILINE)) == 4
    for made in ('predictions', 'training_curve.png', 'best_coco_AP_epoch_9.pth'):
        assert str(root / 'work_dirs' / 'sapiens_tiny_demo' / made) in output
    assert f'--logdir {root / "work_dirs" / "sapiens_tiny_demo"}' in output


def test_the_last_line_is_the_precision(quickstart, root, monkeypatch, capfd):
    monkeypatch.setattr(quickstart, 'ROOT', root)
    monkeypatch.setattr(quickstart, 'ready_python', lambda: Path(sys.executable))
    monkeypatch.setattr(sys, 'argv', ['quickstart.py'])
    monkeypatch.chdir(root.parent)
    quickstart.main()
    assert capfd.readouterr().out.splitlines()[-1] == 'coco/AP 0.812'


def test_a_second_call_says_that_it_goes_on_and_draws_anew(quickstart, root, capfd):
    quickstart.quickstart(root, Path(sys.executable))
    assert '--fresh' not in capfd.readouterr().out
    pictures = root / 'work_dirs' / 'sapiens_tiny_demo' / 'predictions'
    (pictures / 'of_another_training.jpg').touch()
    quickstart.quickstart(root, Path(sys.executable))
    assert 'train.py configs/sapiens_tiny_demo.py --resume' in calls(root)
    assert 'To start over: --fresh' in capfd.readouterr().out
    assert [path.name for path in pictures.iterdir()] == ['one.jpg']


def test_fresh_deletes_the_earlier_training_alone(quickstart, root, monkeypatch):
    monkeypatch.setattr(quickstart, 'ROOT', root)
    monkeypatch.setattr(quickstart, 'ready_python', lambda: Path(sys.executable))
    monkeypatch.setattr(sys, 'argv', ['quickstart.py', '--fresh'])
    for name in ('sapiens_tiny_demo', 'sapiens1b_gtx1650'):
        (root / 'work_dirs' / name).mkdir(parents=True)
        (root / 'work_dirs' / name / 'epoch_5.pth').touch()
    quickstart.main()
    left = {path.relative_to(root).as_posix() for path in root.rglob('epoch_*.pth')}
    assert left == {
        'work_dirs/sapiens_tiny_demo/epoch_9.pth',
        'work_dirs/sapiens1b_gtx1650/epoch_5.pth',
    }


def test_a_failed_step_ends_it_with_its_code(quickstart, root, capfd):
    with (root / 'tools' / 'train.py').open('a', encoding='utf-8') as file:
        file.write('sys.exit(5)\n')
    with pytest.raises(SystemExit) as caught:
        quickstart.quickstart(root, Path(sys.executable))
    assert caught.value.code == 5
    assert [line.split()[0] for line in calls(root)] == ['make_demo.py', 'train.py']
    captured = capfd.readouterr()
    assert captured.err == 'quickstart: step 2 of 4, train, failed with code 5.\n'
    assert 'coco/AP' not in captured.out


@pytest.mark.parametrize(
    'flag, command',
    [(None, 'The same command'), ('--fresh', 'The same command, without --fresh,')],
)
def test_ctrl_c_in_a_step_is_no_failure(
    flag, command, quickstart, root, monkeypatch, capfd
):
    monkeypatch.setattr(quickstart, 'ROOT', root)
    monkeypatch.setattr(quickstart, 'ready_python', lambda: Path(sys.executable))
    monkeypatch.setattr(sys, 'argv', ['quickstart.py', *filter(None, [flag])])
    with (root / 'tools' / 'train.py').open('a', encoding='utf-8') as file:
        file.write('sys.exit(130)\n')
    with pytest.raises(SystemExit) as caught:
        quickstart.main()
    assert caught.value.code == 130
    captured = capfd.readouterr()
    assert captured.err == f'\nquickstart: interrupted. {command} goes on.\n'
    assert [line.split()[0] for line in calls(root)] == ['make_demo.py', 'train.py']


def test_of_two_best_checkpoints_the_newest_is_tested(quickstart, tmp_path):
    for epoch, seconds in ((30, 3000), (9, 2000), (100, 1000)):
        path = tmp_path / f'best_coco_AP_epoch_{epoch}.pth'
        path.touch()
        os.utime(path, (seconds, seconds))
    assert quickstart.newest_best(tmp_path).name == 'best_coco_AP_epoch_30.pth'


def test_a_training_without_a_best_checkpoint_is_said(quickstart, tmp_path):
    with pytest.raises(SystemExit, match=r'left no best_coco_AP_epoch_\*\.pth'):
        quickstart.newest_best(tmp_path)


def test_help_needs_no_environment(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOLS / 'quickstart.py', '--help'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert '--fresh' in done.stdout
    assert done.stderr == ''

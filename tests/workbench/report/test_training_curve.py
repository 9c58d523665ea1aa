import json
import math
import subprocess
import sys
from pathlib import Path

from PIL import Image

from sapiens_plugin.workbench.report.run_log import RunLog
from sapiens_plugin.workbench.report.training_curve import draw_training_curve, plot


def make_log(*, validations: int) -> RunLog:
    return RunLog(
        train=[{'epoch': e, 'iter': 10 * e, 'loss': math.exp(-e)} for e in range(1, 5)],
        validation=[{'step': e, 'coco/AP': 0.2 * e} for e in range(1, 1 + validations)],
    )


def test_both_panels_hold_the_logged_values():
    figure = plot(make_log(validations=4), title='tiny')
    loss, precision = figure.axes
    assert loss.get_title(loc='left') == 'tiny'
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert list(loss.lines[0].get_ydata()) == [math.exp(-e) for e in range(1, 5)]
    assert list(precision.lines[0].get_ydata()) == [0.2 * e for e in range(1, 5)]
    assert precision.get_title(loc='right') == 'best 0.800, after epoch 4'


def test_without_a_validation_there_is_no_empty_panel():
    assert len(plot(make_log(validations=0), title='tiny').axes) == 1


def write_log(work_dir: Path) -> None:
    log = make_log(validations=2)
    path = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    lines = [json.dumps(record) + '\n' for record in log.train + log.validation]
    path.write_text(''.join(lines), encoding='utf-8')


def test_the_picture_is_whole_and_alone(tmp_path):
    write_log(tmp_path)
    picture = draw_training_curve(tmp_path)
    with Image.open(picture) as image:
        image.load()
        assert image.format == 'PNG'
        assert image.width > 800 and image.height > 800
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        '20260101_000000',
        'training_curve.png',
    ]


def call(work_dir: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'sapiens_plugin.workbench.report.training_curve']
    return subprocess.run(
        [*command, str(work_dir)], capture_output=True, text=True, timeout=60
    )


def test_the_command_prints_where_the_picture_is(tmp_path):
    write_log(tmp_path)
    done = call(tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip() == str(tmp_path / 'training_curve.png')


def test_the_command_refuses_an_empty_directory_without_a_traceback(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 2
    assert 'has no training log' in done.stderr
    assert 'Traceback' not in done.stderr

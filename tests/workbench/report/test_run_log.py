import json
from pathlib import Path

import pytest

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.report.run_log import read_run_log


def write_start(work_dir: Path, timestamp: str, records: list[dict]) -> Path:
    path = work_dir / timestamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    lines = [json.dumps(record) + '\n' for record in records]
    path.write_text(''.join(lines), encoding='utf-8')
    return path


def train(iteration: int, *, epoch: int, loss: float) -> dict:
    return {'loss': loss, 'lr': 1e-3, 'epoch': epoch, 'iter': iteration, 'step': 7}


def validation(epoch: int, ap: float) -> dict:
    return {'coco/AP': ap, 'time': 0.1, 'step': epoch}


def test_epochs_are_the_axis_of_both_series(tmp_path):
    # 100 iterations an epoch, one line in 50.
    write_start(
        tmp_path,
        '20260101_000000',
        [
            train(50, epoch=1, loss=4.0),
            train(100, epoch=1, loss=3.0),
            validation(1, 0.25),
            train(150, epoch=2, loss=2.0),
            validation(2, 0.5),
        ],
    )
    log = read_run_log(tmp_path)
    assert log.train_series('loss') == [(0.5, 4.0), (1.0, 3.0), (1.5, 2.0)]
    assert log.validation_series('coco/AP') == [(1.0, 0.25), (2.0, 0.5)]
    assert log.train_series('absent') == []


def test_the_epoch_s_length_is_found_when_its_last_lines_are_not_logged(tmp_path):
    # 130 iterations an epoch, one line in 50: none at an epoch's end.
    inner = [50, 100]
    lines = [train(130 * e + i, epoch=e + 1, loss=1.0) for e in range(4) for i in inner]
    write_start(tmp_path, '20260101_000000', lines)
    epochs = [x for x, _ in read_run_log(tmp_path).train_series('loss')]
    assert epochs == pytest.approx([e + i / 130 for e in range(4) for i in inner])


def test_a_first_epoch_under_way_counts_as_one(tmp_path):
    lines = [train(50, epoch=1, loss=2.0), train(100, epoch=1, loss=1.0)]
    write_start(tmp_path, '20260101_000000', lines)
    assert read_run_log(tmp_path).train_series('loss') == [(0.5, 2.0), (1.0, 1.0)]


def test_a_resumption_continues_and_replaces_what_it_repeats(tmp_path):
    write_start(
        tmp_path,
        '20260101_000000',
        [
            train(100, epoch=1, loss=4.0),
            validation(1, 0.1),
            train(200, epoch=2, loss=9.0),
            validation(2, 0.9),
        ],
    )
    write_start(
        tmp_path,
        '20260102_000000',
        [train(200, epoch=2, loss=3.0), validation(2, 0.2)],
    )
    log = read_run_log(tmp_path)
    assert log.train_series('loss') == [(1.0, 4.0), (2.0, 3.0)]
    assert log.validation_series('coco/AP') == [(1.0, 0.1), (2.0, 0.2)]


def test_a_training_from_scratch_begins_the_record_anew(tmp_path):
    write_start(
        tmp_path,
        '20260101_000000',
        [train(100, epoch=1, loss=4.0), validation(1, 0.1)],
    )
    write_start(tmp_path, '20260102_000000', [train(100, epoch=1, loss=5.0)])
    log = read_run_log(tmp_path)
    assert log.train_series('loss') == [(1.0, 5.0)]
    assert log.validation == []


def test_a_test_run_beside_the_training_changes_nothing(tmp_path):
    write_start(tmp_path, '20260101_000000', [train(10, epoch=1, loss=4.0)])
    write_start(tmp_path, '20260102_000000', [{'coco/AP': 0.5, 'step': 0}])
    log = read_run_log(tmp_path)
    assert log.validation == []
    assert len(log.train) == 1


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = write_start(tmp_path, '20260101_000000', [train(10, epoch=1, loss=4.0)])
    with path.open('a', encoding='utf-8') as file:
        file.write('{"loss": 3.')
    assert read_run_log(tmp_path).train_series('loss') == [(1.0, 4.0)]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = write_start(tmp_path, '20260101_000000', [train(10, epoch=1, loss=4.0)])
    path.write_text('not json\n' + path.read_text(encoding='utf-8'), encoding='utf-8')
    with pytest.raises(InputError, match=r'scalars\.json, line 1'):
        read_run_log(tmp_path)


def test_a_directory_without_a_training_is_named(tmp_path):
    with pytest.raises(InputError, match='has no training log'):
        read_run_log(tmp_path)


def test_starts_are_those_whose_records_are_left(tmp_path):
    """From scratch; resumed after epoch 2; resumed after epoch 1, in its place."""
    for stamp, epochs in (('1', (1, 2)), ('2', (3,)), ('3', (2, 3)), ('4', (4,))):
        lines = [train(100 * epoch, epoch=epoch, loss=1.0) for epoch in epochs]
        write_start(tmp_path, stamp, lines)
    starts = read_run_log(tmp_path).starts
    assert [(s.folder.name, s.epochs_before) for s in starts] == [
        ('1', 0),
        ('3', 1),
        ('4', 3),
    ]


def test_the_time_of_an_iteration_is_the_mean_over_those_of_the_epochs(tmp_path):
    """100 iterations an epoch, of which the last 20 are not logged."""
    lines = [
        train(40, epoch=1, loss=1.0) | {'time': 1.0},
        train(80, epoch=1, loss=1.0) | {'time': 2.0},
        train(140, epoch=2, loss=1.0) | {'time': 5.0},
        train(160, epoch=2, loss=1.0) | {'time': 8.0},
    ]
    write_start(tmp_path, '20260101_000000', lines)
    log = read_run_log(tmp_path)
    assert log.seconds_per_iteration(1, 1) == pytest.approx(1.5)
    assert log.seconds_per_iteration(2, 2) == pytest.approx((40 * 5 + 20 * 8) / 60)
    assert log.seconds_per_iteration(1, 2) == pytest.approx((80 * 1.5 + 360) / 140)
    assert log.seconds_per_iteration(3, 9) is None

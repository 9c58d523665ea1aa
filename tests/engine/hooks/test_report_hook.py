"""What a run leaves behind for its report, and the report at its end."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.structures import InstanceData

from sapiens_plugin.engine.hooks import report_hook
from sapiens_plugin.workbench.report.kept_validation import (
    FILE_NAME,
    KeptValidation,
    read_kept_validation,
)
from sapiens_plugin.workbench.report.keypoint_ap import COCO_SIZES, Evaluation
from sapiens_plugin.workbench.report.report import write_report


@pytest.fixture
def config(demo_config, tmp_path):
    demo_config.visualizer.name = str(tmp_path)  # MMEngine keeps one for each name
    demo_config.default_hooks.report = dict(type='sapiens_plugin.ReportHook')
    demo_config.train_cfg.max_epochs = 2
    demo_config.train_cfg.val_interval = 2
    return demo_config


@pytest.fixture
def runner(config, make_runner):
    """A runner before its training."""
    return make_runner(config)


def hook_of(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'ReportHook')


def validate(runner, *, noise: float) -> dict[str, float]:
    """Validate with the true keypoints, moved, in the place of predictions."""
    rng = np.random.default_rng(0)
    hook, loop = hook_of(runner), runner.val_loop
    hook.before_val_epoch(runner)
    dataset = loop.dataloader.dataset
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        true = dataset.get_data_info(index)['keypoints']
        sample.pred_instances = InstanceData(
            keypoints=true + rng.normal(0, noise, true.shape),
            keypoint_scores=rng.uniform(0.5, 1, true.shape[:2]),
            bboxes=sample.gt_instances.bboxes,
            bbox_scores=sample.gt_instances.bbox_scores,
        )
        loop.evaluator.process(data_samples=[sample], data_batch={})
    metrics = loop.evaluator.evaluate(len(dataset))
    hook.after_val_epoch(runner, metrics)
    return metrics


def test_a_training_ends_with_its_report(config, make_runner):
    runner = make_runner(config)
    runner.train()
    work_dir = Path(runner.work_dir)
    page = (work_dir / 'report.html').read_text(encoding='utf-8')
    assert 'Finished: 2 of 2 epochs were trained' in page
    assert 'Best and worst persons' in page and 'data:image/jpeg' in page
    kept = read_kept_validation(work_dir)
    assert kept.epoch == 2 and 0 < kept.seconds < 60
    assert list(work_dir.glob('*.part')) == []


def test_kept_predictions_have_the_metrics_that_were_logged(runner):
    hook_of(runner).before_train(runner)
    metrics = validate(runner, noise=6.0)
    kept = read_kept_validation(runner.work_dir)
    assert kept.metrics == pytest.approx(metrics)
    dataset = json.loads(Path(kept.annotations).read_text(encoding='utf-8'))
    evaluation = Evaluation(dataset, kept.results, sigmas=kept.sigmas)
    found = [evaluation.overall(), *evaluation.by_size(COCO_SIZES)]
    logged = [metrics[f'coco/{name}'] for name in ('AP', 'AP (M)', 'AP (L)')]
    assert [f.ap for f in found] == pytest.approx(logged, abs=1e-6)
    assert 0.1 < found[0].ap < 0.9  # neither end would tell much
    assert Path(kept.images, dataset['images'][0]['file_name']).is_file()
    assert kept.keypoints[0] == 'nose' and len(kept.skeleton) == 19


def test_only_the_best_validation_is_kept(runner):
    hook_of(runner).before_train(runner)
    for epoch, noise in ((1, 8.0), (2, 4.0), (3, 12.0)):
        runner.train_loop._epoch = epoch
        validate(runner, noise=noise)
    assert read_kept_validation(runner.work_dir).epoch == 2


def test_a_resumed_training_compares_with_what_it_goes_on_from(runner, make_runner):
    hook_of(runner).before_train(runner)
    runner.train_loop._epoch = 1
    validate(runner, noise=4.0)

    resumed = make_runner(runner.cfg)
    resumed.train_loop._epoch = 1
    hook_of(resumed).before_train(resumed)
    before = read_kept_validation(runner.work_dir)
    validate(resumed, noise=8.0)
    assert read_kept_validation(runner.work_dir) == before
    resumed.train_loop._epoch = 2
    validate(resumed, noise=2.0)
    assert read_kept_validation(runner.work_dir).epoch == 2


def test_a_training_from_scratch_forgets_the_one_before(runner):
    work_dir = Path(runner.work_dir)
    hook_of(runner).before_train(runner)
    runner.train_loop._epoch = 1
    validate(runner, noise=1.0)
    assert (work_dir / FILE_NAME).is_file()
    runner.train_loop._epoch = 0
    hook_of(runner).before_train(runner)
    assert not (work_dir / FILE_NAME).exists()
    validate(runner, noise=8.0)
    assert read_kept_validation(work_dir) is not None


def test_a_damaged_file_is_made_anew(runner):
    path = Path(runner.work_dir, FILE_NAME)
    path.write_text('{', encoding='utf-8')
    hook_of(runner).before_train(runner)
    assert not path.exists()


def test_a_validation_outside_a_training_keeps_nothing(runner):
    validate(runner, noise=1.0)
    assert not Path(runner.work_dir, FILE_NAME).exists()


def test_another_metric_is_left_alone(config, make_runner):
    config.val_evaluator = dict(type='PCKAccuracy')
    runner = make_runner(config)
    hook = hook_of(runner)
    hook.before_train(runner)
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner, {'PCK': 0.9})
    assert not Path(runner.work_dir, FILE_NAME).exists()


def test_a_run_does_not_fail_over_its_report(runner):
    hook = hook_of(runner)
    hook.before_train(runner)
    hook.after_train(runner)  # nothing was logged
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text(encoding='utf-8')
    assert 'No report was written.' in log
    assert not Path(runner.work_dir, 'report.html').exists()


def log_of(runner) -> str:
    return next(Path(runner.work_dir).glob('*/*.log')).read_text(encoding='utf-8')


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_training_that_diverges_at_once_has_its_report(config, make_runner):
    runner = make_runner(config)
    metric = runner.val_loop.evaluator.metrics[0]
    process = metric.process

    def diverged(data_batch, data_samples):
        for sample in data_samples:
            sample['pred_instances']['keypoints'][:] = np.nan
        process(data_batch, data_samples)

    metric.process = diverged
    runner.train()
    page = Path(runner.work_dir, 'report.html').read_text(encoding='utf-8')
    assert 'of the predictions are not finite' in page
    assert write_report(runner.work_dir).is_file()


@pytest.mark.parametrize('kind', [OSError, KeyError, ValueError, TypeError])
def test_no_error_of_the_report_ends_the_run(kind, runner, monkeypatch):
    def fail(work_dir):
        raise kind('strange')

    monkeypatch.setattr('sapiens_plugin.engine.hooks.report_hook.write_report', fail)
    hook_of(runner).after_train(runner)
    assert f"No report was written. {kind.__name__}('strange')" in log_of(runner)


@pytest.mark.parametrize(
    'place, name', [(KeptValidation, 'write'), (report_hook, 'TemporaryDirectory')]
)
def test_a_full_disk_is_a_warning_and_tried_again(place, name, runner, monkeypatch):
    hook_of(runner).before_train(runner)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, no_space)
        for noise in (4.0, 3.0):
            validate(runner, noise=noise)
    assert log_of(runner).count('No space left on device') == 1
    runner.train_loop._epoch = 3
    validate(runner, noise=8.0)  # the best of those that could be kept
    assert read_kept_validation(runner.work_dir).epoch == 3


def test_a_locked_file_of_an_earlier_training_is_a_warning(runner, monkeypatch):
    path = Path(runner.work_dir, FILE_NAME)
    path.write_text('{', encoding='utf-8')
    monkeypatch.setattr(Path, 'unlink', no_space)
    hook_of(runner).before_train(runner)
    assert 'No space left on device' in log_of(runner)


def test_the_metrics_own_file_stays_where_it_was_wanted(runner, tmp_path):
    metric = runner.val_loop.evaluator.metrics[0]
    metric.outfile_prefix = str(tmp_path / 'mine')
    hook_of(runner).before_train(runner)
    validate(runner, noise=4.0)
    assert metric.outfile_prefix == str(tmp_path / 'mine')
    written = json.loads((tmp_path / 'mine.keypoints.json').read_text('utf-8'))
    assert len(read_kept_validation(runner.work_dir).results) == len(written) > 0


def test_a_metric_without_a_file_of_its_own_gets_none(runner):
    hook_of(runner).before_train(runner)
    validate(runner, noise=4.0)
    assert runner.val_loop.evaluator.metrics[0].outfile_prefix is None

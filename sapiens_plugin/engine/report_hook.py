"""The page about a run, and what it needs of its validations."""

import json
import tempfile
from pathlib import Path
from time import perf_counter

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.evaluation import CocoMetric

from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS
from sapiens_plugin.reporting.kept_validation import (
    FILE_NAME,
    KeptValidation,
    read_kept_validation,
)
from sapiens_plugin.reporting.report import write_report


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.html`` at the end of a training.

    Of the validations while training, the predictions of the best one (by ``coco/AP``)
    are kept in ``best_validation.json``, from which the report takes AP by keypoint and
    its pictures. Validations by something else than ``CocoMetric``, or of several data
    sets at once, are not kept. ``tools/report.py`` writes the same page at any time.
    """

    # After the log and the checkpoints.
    priority = 'LOWEST'

    def __init__(self):
        self._folder: tempfile.TemporaryDirectory | None = None
        self._best: float | None = None
        self._began = 0.0
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Forget what an earlier training kept that this one does not go on from."""
        self._training = True
        if not is_main_process():
            return
        self._best = None
        try:
            kept = read_kept_validation(runner.work_dir)
        except InputError as error:
            runner.logger.warning(str(error))
            kept = None
        if kept is not None and kept.epoch <= runner.epoch:
            self._best = kept.metrics['coco/AP']
        else:
            Path(runner.work_dir, FILE_NAME).unlink(missing_ok=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Have the metric leave its predictions."""
        self._began = perf_counter()
        metric = _coco_metric(runner)
        if self._training and is_main_process() and metric is not None:
            self._folder = tempfile.TemporaryDirectory()
            metric.outfile_prefix = str(Path(self._folder.name, 'results'))

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the predictions if they are the best so far."""
        if self._folder is None:
            return
        with self._folder as folder:
            self._folder = None
            metric = _coco_metric(runner)
            metric.outfile_prefix = None
            precision = metrics.get('coco/AP')
            if precision is None or (
                self._best is not None and precision <= self._best
            ):
                return
            self._best = precision
            text = Path(folder, 'results.keypoints.json').read_text(encoding='utf-8')
            _keep(
                runner,
                json.loads(text),
                metrics=metrics,
                seconds=perf_counter() - self._began,
            )

    def after_train(self, runner: Runner) -> None:
        """Write the page; a run that got this far does not fail over it."""
        self._training = False
        if not is_main_process():
            return
        try:
            runner.logger.info(f'Report: {write_report(runner.work_dir)}')
        except InputError as error:
            runner.logger.warning(f'No report was written. {error}')


def _coco_metric(runner: Runner) -> CocoMetric | None:
    """Return the metric whose predictions can be kept."""
    dataset = runner.val_loop.dataloader.dataset
    for metric in runner.val_loop.evaluator.metrics:
        if isinstance(metric, CocoMetric) and hasattr(dataset, 'ann_file'):
            return metric
    return None


def _keep(
    runner: Runner, results: list[dict], *, metrics: dict[str, float], seconds: float
) -> None:
    dataset = runner.val_loop.dataloader.dataset
    meta = dataset.metainfo
    KeptValidation(
        epoch=runner.epoch,
        seconds=seconds,
        metrics={name: float(value) for name, value in metrics.items()},
        annotations=str(Path(dataset.ann_file).absolute()),
        images=str(Path(dataset.data_prefix['img']).absolute()),
        keypoints=[meta['keypoint_id2name'][i] for i in range(meta['num_keypoints'])],
        sigmas=[float(sigma) for sigma in meta['sigmas']],
        skeleton=[list(map(int, pair)) for pair in meta['skeleton_links']],
        results=[
            result
            | {
                # Hundredths of a pixel and less mean nothing.
                'keypoints': [round(value, 3) for value in result['keypoints']],
            }
            for result in results
        ],
    ).write(runner.work_dir)

"""The page about a run, and what it needs of its validations."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.evaluation import CocoMetric

from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS
from sapiens_plugin.workbench.report.kept_validation import (
    FILE_NAME,
    KeptValidation,
    read_kept_validation,
)
from sapiens_plugin.workbench.report.report import write_report


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.html`` at the end of a training.

    Of the validations while training, the predictions of the best one (by ``coco/AP``)
    are kept in ``best_validation.json``, from which the report takes AP by keypoint and
    its pictures. Validations by something else than ``CocoMetric``, or of several data
    sets at once, are not kept. ``tools/report.py`` writes the same page at any time.
    What cannot be written, as on a full disk, is a warning in the log and no more.
    """

    # After the log and the checkpoints.
    priority = 'LOWEST'

    def __init__(self):
        # Of the validation under way, if its predictions may be kept.
        self._folder: TemporaryDirectory | None = None
        self._has_warned = False
        self._best: float | None = None
        self._prefix: str | None = None  # the metric's own
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
            return
        try:
            Path(runner.work_dir, FILE_NAME).unlink(missing_ok=True)
        except OSError as error:
            self._warn(runner, error)

    def before_val_epoch(self, runner: Runner) -> None:
        """Have the metric leave its predictions."""
        self._began = perf_counter()
        metric = _coco_metric(runner)
        if not self._training or not is_main_process() or metric is None:
            return
        if self._folder is not None:  # of one that is begun again
            self._folder.cleanup()
            metric.outfile_prefix = self._prefix
        try:
            self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        except OSError as error:
            self._warn(runner, error)
            return
        self._prefix = metric.outfile_prefix
        if self._prefix is None:  # nobody else wants them
            metric.outfile_prefix = str(Path(self._folder.name, 'results'))

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the predictions if they are the best so far."""
        if self._folder is None:
            return
        with self._folder:
            self._folder = None
            metric = _coco_metric(runner)
            path = Path(f'{metric.outfile_prefix}.keypoints.json')
            metric.outfile_prefix = self._prefix
            precision = metrics.get('coco/AP')
            if precision is None or (
                self._best is not None and precision <= self._best
            ):
                return
            try:
                _keep(
                    runner,
                    json.loads(path.read_text(encoding='utf-8')),
                    metrics=metrics,
                    seconds=perf_counter() - self._began,
                )
            except OSError as error:
                self._warn(runner, error)
            else:
                self._best = precision

    def after_train(self, runner: Runner) -> None:
        """Write the page; a run that got this far does not fail over it."""
        self._training = False
        if not is_main_process():
            return
        try:
            runner.logger.info(f'Report: {write_report(runner.work_dir)}')
        except (OSError, LookupError, ValueError, TypeError) as error:
            reason = error if isinstance(error, InputError) else repr(error)
            runner.logger.warning(f'No report was written. {reason}')

    def _warn(self, runner: Runner, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            runner.logger.warning(
                f'The predictions of a validation could not be kept: {error}. The '
                'training goes on; the next best validation is tried again.'
            )


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
                # Coarser, and a person on a threshold of OKS may change sides.
                'keypoints': [round(value, 5) for value in result['keypoints']],
            }
            for result in results
        ],
    ).write(runner.work_dir)

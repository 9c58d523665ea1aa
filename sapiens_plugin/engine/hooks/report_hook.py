"""The page about a run, and what it needs of its validations."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.evaluation import CocoMetric

from sapiens_plugin.engine.utils.only_warns import only_warns
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
    What fails here, as on a full disk, is a warning in the log and no more.
    """

    # After the log and the checkpoints.
    priority = 'LOWEST'

    def __init__(self):
        # Of the validation under way, if its predictions may be kept.
        self._folder: TemporaryDirectory | None = None
        self._best: float | None = None
        self._prefix: str | None = None  # the metric's own
        self._began = 0.0
        self._training = False

    @only_warns
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
        Path(runner.work_dir, FILE_NAME).unlink(missing_ok=True)

    @only_warns
    def before_val_epoch(self, runner: Runner) -> None:
        """Have the metric leave its predictions."""
        self._began = perf_counter()
        metric = _coco_metric(runner)
        if not self._training or not is_main_process() or metric is None:
            return
        if self._folder is not None:  # of one that is begun again
            self._folder.cleanup()
            self._folder, metric.outfile_prefix = None, self._prefix
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        self._prefix = metric.outfile_prefix
        if self._prefix is None:  # nobody else wants them
            metric.outfile_prefix = str(Path(self._folder.name, 'results'))

    @only_warns
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
            _keep(
                runner,
                json.loads(path.read_text(encoding='utf-8')),
                metrics=metrics,
                seconds=perf_counter() - self._began,
            )
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
    metric = _coco_metric(runner)
    meta = metric.dataset_meta
    KeptValidation(
        epoch=runner.epoch,
        seconds=seconds,
        metrics={name: float(value) for name, value in metrics.items()},
        annotations=str(Path(dataset.ann_file).absolute()),
        images=str(Path(dataset.data_prefix['img']).absolute()),
        keypoints=[
            meta['keypoint_id2name'].get(i, f'keypoint {i + 1}')
            for i in range(meta['num_keypoints'])
        ],
        sigmas=[float(sigma) for sigma in meta['sigmas']],
        skeleton=[list(map(int, pair)) for pair in meta['skeleton_links']],
        mapping=metric.gt_converter and metric.gt_converter['mapping'],
        results=[
            result
            | {
                # Coarser, and a person on a threshold of OKS may change sides.
                'keypoints': [round(value, 5) for value in result['keypoints']],
            }
            for result in results
        ],
    ).write(runner.work_dir)

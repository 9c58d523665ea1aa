"""The same validation persons, seen again after every validation."""

from collections.abc import Sequence

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.structures import PoseDataSample

from sapiens_plugin.engine.logging.pose_pictures import arrange, draw_pair
from sapiens_plugin.engine.utils.only_warns import only_warns
from sapiens_plugin.engine.utils.unwrap import unwrap
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class ValidationPicturesHook(Hook):
    """Send a sheet of predicted and true poses to every visualization backend.

    It shows the crops as the model sees them, of persons evenly spread over the
    validation set. A pose whose number of keypoints is neither that of the data set nor
    of a metric nor of ``model.metainfo`` is drawn without links.

    Args:
        count: Persons on the sheet; 0 draws none.
        min_score: Predicted keypoints below this score are left out.

    Raises:
        InputError: ``count`` is negative.
    """

    def __init__(self, *, count: int = 8, min_score: float = 0.3):
        if count < 0:
            raise InputError(
                f'ValidationPicturesHook: count={count} is negative; 0 draws none.'
            )
        self.count = count
        self.min_score = min_score
        self._pictures: list[np.ndarray] = []
        self._seen = 0  # persons of this validation
        self._skeletons: dict = {}

    @only_warns
    def before_val_epoch(self, runner: Runner) -> None:
        """Begin a sheet."""
        self._pictures = []
        self._seen = 0
        metas = [
            runner.val_dataloader.dataset.metainfo,
            *(each.dataset_meta for each in runner.val_loop.evaluator.metrics),
            getattr(unwrap(runner.model), 'metainfo', None),
        ]
        self._skeletons = {
            meta['num_keypoints']: (
                meta['skeleton_links'],
                meta['skeleton_link_colors'],
            )
            for meta in metas
            if meta and 'skeleton_links' in meta
        }

    @only_warns
    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[PoseDataSample] | None = None,
    ) -> None:
        """Draw the chosen persons of this batch."""
        if not is_main_process():
            return
        total = len(runner.val_dataloader.sampler)
        chosen = {i * total // self.count for i in range(self.count)}
        for crop, sample in zip(data_batch['inputs'], outputs, strict=True):
            if self._seen in chosen:
                self._pictures.append(self._draw(crop, sample))
            self._seen += 1

    @only_warns
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Hand the sheet over."""
        if self._pictures:
            runner.visualizer.add_image(
                'validation_persons', arrange(self._pictures), step=runner.epoch
            )

    def _draw(self, crop, sample: PoseDataSample) -> np.ndarray:
        predicted, true = sample.pred_instances, sample.gt_instances
        return draw_pair(
            crop.permute(1, 2, 0).numpy()[..., ::-1],  # images are read as BGR
            predicted=_in_crop(predicted.keypoints[0], sample),
            predicted_shown=predicted.keypoint_scores[0] >= self.min_score,
            true=_in_crop(true.keypoints[0], sample),
            true_shown=true.keypoints_visible[0] > 0,
            skeletons=self._skeletons,
        )


def _in_crop(keypoints: np.ndarray, sample: PoseDataSample) -> np.ndarray:
    """Map (K, 2) from px of the photograph to px of a crop made with ``use_udp``."""
    corner = sample.input_center - 0.5 * sample.input_scale
    last = np.subtract(sample.input_size, 1)
    return (keypoints - corner) / sample.input_scale * last

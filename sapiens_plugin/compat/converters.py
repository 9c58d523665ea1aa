"""Converters: a model whose keypoints are others than those of the data."""

from collections.abc import Callable
from copy import copy
from functools import cache, wraps
from typing import Any

import numpy as np
from mmpose.datasets.transforms import KeypointConverter, PackPoseInputs
from mmpose.evaluation.metrics import CocoMetric, coco_metric
from mmpose.visualization import PoseLocalVisualizer


@cache
def convert_keypoints_whole() -> None:
    """Convert all that belongs to keypoints with them, and each thing once.

    Symptom:
        With ``KeypointConverter`` and ``CocoMetric(gt_converter=...)``: the second
        validation ends with an IndexError, as does the second of two metrics; a flip
        test and ``--badcase`` with an AssertionError; ``--show-dir`` with a ValueError.

    Cause:
        Annotations are converted in place in each evaluation, and sigmas in metainfo
        that metrics share. The transform leaves the pairs of left and right as they
        were, and weights with the visibility, which only ``GenerateTarget`` takes
        apart. The visualizer knows the skeleton of the data set alone.

    Cure:
        Converted annotations stay as they are. Each metric has metainfo of its own,
        with names and skeleton. Left and right are converted, too, and weights are
        packed beside the visibility. Poses of other keypoints than the data set's are
        drawn without links.
    """
    meta = CocoMetric.dataset_meta
    CocoMetric.dataset_meta = meta.setter(of_its_own(meta.fset))
    coco_metric.transform_ann = converting_once(coco_metric.transform_ann)
    KeypointConverter.transform = with_flips(KeypointConverter.transform)
    PackPoseInputs.transform = apart(PackPoseInputs.transform)
    drawing = drawing_any(PoseLocalVisualizer._draw_instances_kpts)
    PoseLocalVisualizer._draw_instances_kpts = drawing


def of_its_own(set_dataset_meta: Callable) -> Callable:
    """Give a metric metainfo of its own, of the keypoints that it compares."""

    @wraps(set_dataset_meta)
    def set_meta(self: CocoMetric, dataset_meta: dict) -> None:
        own = dict(dataset_meta)
        set_dataset_meta(self, own)
        if self.gt_converter:
            own |= _renumbered(dataset_meta, dict(self.gt_converter['mapping']))

    return set_meta


def _renumbered(meta: dict, places: dict[int, int]) -> dict:
    names, links = meta['keypoint_id2name'], meta['skeleton_links']
    kept = [index for index, link in enumerate(links) if set(link) <= places.keys()]
    return dict(
        keypoint_id2name={new: names[old] for old, new in places.items()},
        skeleton_links=[tuple(places[end] for end in links[i]) for i in kept],
        skeleton_link_colors=np.asarray(meta['skeleton_link_colors'])[kept],
    )


class _Converted(dict):
    """An annotation with the keypoints of the model."""


def converting_once(transform_ann: Callable) -> Callable:
    """Convert a copy of an annotation, unless it has been converted."""

    @wraps(transform_ann)
    def transform(annotation: dict, *converter) -> dict:
        if isinstance(annotation, _Converted):
            return annotation
        return transform_ann(_Converted(annotation), *converter)

    return transform


def with_flips(transform: Callable) -> Callable:
    """Leave with converted keypoints which of them a flip puts in whose place."""

    @wraps(transform)
    def convert(self: KeypointConverter, results: dict) -> dict:
        before = results.pop('flip_indices', None)
        results = transform(self, results)
        if before is None:
            return results
        others = getattr(self, 'source_index2', self.source_index)
        sources = map(frozenset, zip(self.source_index, others, strict=True))
        places = dict(zip(sources, self.target_index, strict=True))
        flips = list(range(self.num_keypoints))  # what has no counterpart stays
        for ends, target in places.items():
            mirrored = frozenset(before[end] for end in ends)
            flips[target] = places.get(mirrored, target)
        results['flip_indices'] = flips
        return results

    return convert


def apart(transform: Callable) -> Callable:
    """Take visibility and weights, (N, K, 2), apart, as ``GenerateTarget`` does."""

    @wraps(transform)
    def pack(self: PackPoseInputs, results: dict) -> dict:
        visible = results.get('keypoints_visible')
        if np.ndim(visible) == 3 and visible.shape[2] == 2:
            results['keypoints_visible'] = visible[..., 0]
            results['keypoints_visible_weights'] = visible[..., 1]
        return transform(self, results)

    return pack


def drawing_any(draw: Callable) -> Callable:
    """Draw points alone where the data set's skeleton is not that of a pose."""

    @wraps(draw)
    def draw_any(self, image: np.ndarray, instances: Any, *args, **options) -> Any:
        known = (self.dataset_meta or {}).get('num_keypoints')
        if known and known != np.shape(instances.get('keypoints', [[]]))[1]:
            self = copy(self)
            self.kpt_color, self.skeleton = 'red', None
        return draw(self, image, instances, *args, **options)

    return draw_any

"""COCO's metrics: the same numbers and files in a fraction of the time."""

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise, starmap
from pathlib import Path

import numpy as np
import orjson
from mmengine.logging import MMLogger
from mmpose.evaluation.metrics import (
    CocoMetric,
    CocoWholeBodyMetric,
    coco_metric,
    coco_wholebody_metric,
)

from sapiens_plugin.core.coco import suppression
from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS
from sapiens_plugin.core.utils.whole_file import whole_file
from sapiens_plugin.errors import InputError

from .coco_api import COCO, COCOeval, takes_original


@cache
def evaluate_quickly() -> None:
    """Score, sort out, write and compare the poses of many images in arrays.

    Symptom:
        The evaluation of 5,000 images with 104,000 poses takes half a minute and more
        than a gigabyte. With NumPy 2 its last digits are others than with NumPy 1.

    Cause:
        Keypoint similarity, scores and JSON are computed number by number in Python,
        scores in whatever type NumPy's rules for scalars give; and results are read
        back from the file that has just been written.

    Cure:
        The steps and their names stay, and what each works on is an array. Scores are
        computed in float64, as with NumPy 1. Files have no indentation. With
        ``SAPIENS_XTCOCOTOOLS=1`` everything is MMPose's own.
    """
    if takes_original():
        return
    coco_metric.COCO = COCO
    coco_metric.COCOeval = coco_wholebody_metric.COCOeval = COCOeval
    CocoMetric.compute_metrics = compute_metrics
    CocoMetric.results2json = write_results
    CocoWholeBodyMetric.results2json = write_results


def compute_metrics(self: CocoMetric, results: list) -> dict[str, float]:
    """Take the place of ``CocoMetric.compute_metrics``.

    Args:
        self: The metric.
        results: Pairs of what ``process`` makes of a pose and of its annotation.

    Returns:
        The numbers by their names; none if the metric only writes results.
    """
    logger = MMLogger.get_current_instance()
    predictions, annotations = zip(*results, strict=True)
    with contextlib.ExitStack() as stack:
        prefix = self.outfile_prefix
        if prefix is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            prefix = str(Path(folder, 'results'))
        if self.coco is None:
            logger.info('Converting ground truth to coco format...')
            self.coco = COCO(self.gt_to_coco_json(annotations, prefix))
        if (converter := self.gt_converter) is not None:
            for number, annotation in self.coco.anns.items():
                self.coco.anns[number] = coco_metric.transform_ann(
                    annotation, converter['num_keypoints'], converter['mapping']
                )
        by_image = self._sort_and_unique_bboxes(_by_image(self, predictions), key='id')
        kept = defaultdict(list)  # PoseTrack18Metric asks for images without poses
        for image, poses in by_image.items():
            kept[image] = _best(self, poses)
        if type(self).results2json is write_results and not self.format_only:
            # What has just been written need not be read.
            self.coco.fresh = (_path(prefix), _write(self, kept, prefix))
            stack.callback(setattr, self.coco, 'fresh', None)
        else:
            self.results2json(kept, outfile_prefix=prefix)
        del by_image, kept
        if self.format_only:
            logger.info(f'results are saved in {Path(prefix).parent}')
            return {}
        logger.info(f'Evaluating {type(self).__name__}...')
        return dict(self._do_python_keypoint_eval(prefix))


def _by_image(metric: CocoMetric, predictions: Sequence[dict]) -> dict[int, list[dict]]:
    """Group poses by image, with the keys that stock gives them."""
    groups = defaultdict(list)
    for prediction in predictions:
        if (converter := metric.pred_converter) is not None:
            prediction = coco_metric.transform_pred(
                prediction, converter['num_keypoints'], converter['mapping']
            )
        areas, boxes = prediction.get('areas'), prediction.get('bbox')
        if areas is None:
            areas = np.ptp(prediction['keypoints'], axis=1).prod(axis=-1)
        for index, keypoints in enumerate(prediction['keypoints']):
            pose = {
                'id': prediction['id'],
                'img_id': prediction['img_id'],
                'category_id': prediction['category_id'],
                'keypoints': keypoints,
                'keypoint_scores': prediction['keypoint_scores'][index],
                'bbox_score': prediction['bbox_scores'][index],
                'area': areas[index],
            }
            if boxes is not None:
                pose['bbox'] = boxes[index]
            groups[prediction['img_id']].append(pose)
    return groups


def _best(metric: CocoMetric, poses: list[dict]) -> list[dict]:
    """Score the poses of an image; return those that are not suppressed."""
    keypoints = np.array([pose['keypoints'] for pose in poses])
    of_keypoints = np.array([pose['keypoint_scores'] for pose in poses])
    of_boxes = np.array([pose['bbox_score'] for pose in poses])
    count, known = keypoints.shape[1], metric.dataset_meta['num_keypoints']
    if count != known:
        raise InputError(
            f'Poses have {count} keypoints, and the data set that '
            f'{type(metric).__name__} compares them with has {known}. pred_converter '
            'and gt_converter make them the same.'
        )
    joined = np.concatenate([keypoints, of_keypoints[..., None]], axis=-1)
    scores = _scores(metric, of_boxes, of_keypoints)
    for pose, points, score in zip(poses, joined, scores, strict=True):
        pose.update(keypoints=points, score=score)
    if metric.nms_mode == 'none':
        return poses
    areas = np.array([pose['area'] for pose in poses])
    sigmas = np.asarray(metric.dataset_meta['sigmas'])
    similar = suppression.similarity(keypoints, areas, sigmas)
    suppress = suppression.hard if metric.nms_mode == 'oks_nms' else suppression.soft
    return [poses[index] for index in suppress(similar, scores, metric.nms_thr)]


def _scores(
    metric: CocoMetric, of_boxes: np.ndarray, of_keypoints: np.ndarray
) -> np.ndarray:
    """Return the scores of poses by those of boxes ``(N,)`` and keypoints ``(N, K)``.

    They are the numbers that stock MMPose computes with NumPy 1, to the last bit.
    """
    mode = metric.score_mode
    if mode == 'bbox':
        return of_boxes
    if mode == 'keypoint':
        return of_keypoints.mean(axis=1)
    if mode == 'bbox_rle':
        return of_boxes + of_keypoints.mean(axis=1) + of_keypoints.max(axis=1)
    counts = of_keypoints > metric.keypoint_score_thr
    total = np.zeros(len(of_keypoints))
    for column in np.where(counts, of_keypoints, 0).T:  # one by one, in their order
        total += column
    return of_boxes * (total / np.maximum(counts.sum(axis=1), 1))


def write_results(
    self: CocoMetric, keypoints: dict[int, list[dict]], outfile_prefix: str
) -> None:
    """Take the place of ``results2json`` of ``CocoMetric`` and of whole bodies.

    Args:
        self: The metric.
        keypoints: Poses by image.
        outfile_prefix: Where ``.keypoints.json`` is written, whole or not at all.
    """
    _write(self, keypoints, outfile_prefix)


def _path(prefix: str) -> str:
    return f'{prefix}.keypoints.json'


def _write(metric: CocoMetric, by_image: dict[int, list[dict]], prefix: str) -> list:
    """Write poses; return them as the file holds them, but in arrays."""
    wholebody = isinstance(metric, CocoWholeBodyMetric)
    fields = {'keypoints': metric.dataset_meta['num_keypoints']}
    if wholebody:
        fields = WHOLEBODY_FIELDS
    ends = [0, *(3 * np.cumsum(list(fields.values()))).tolist()]
    spans = dict(zip(fields, starmap(slice, pairwise(ends)), strict=True))
    path = Path(_path(prefix))
    path.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with whole_file(path) as file:
        for pose in chain.from_iterable(by_image.values()):
            numbers = np.asarray(pose['keypoints']).ravel()
            result = {name: numbers[span] for name, span in spans.items()}
            result['image_id'] = pose['img_id']
            category = 1 if wholebody else np.asarray(pose['category_id']).item()
            result['category_id'] = category
            result['score'] = float(pose['score'])
            if 'bbox' in pose and not wholebody:
                result['bbox'] = np.asarray(pose['bbox'])
            file.write(b',' if results else b'[')
            file.write(_json(result))
            results.append(result)
        file.write(b']' if results else b'[]')
    return results


def _json(result: dict) -> bytes:
    # In float64, as Python's floats are: orjson writes fewer digits of a float32.
    result = {
        name: value.astype(float) if isinstance(value, np.ndarray) else value
        for name, value in result.items()
    }
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS
    text = orjson.dumps(result, option=options)
    if b'null' in text:  # NaN or infinity, of a model that has diverged
        text = json.dumps(result, sort_keys=True, default=lambda v: v.tolist()).encode()
    return text

"""COCO's evaluation of keypoints: precision and recall of poses ranked by their score.

hotcoco computes it, as xtcocotools and pycocotools do. What those three take for a
person that counts, for its area and for its keypoints differs; here the caller says it.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np

from sapiens_plugin.errors import InputError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds of object keypoint similarity (OKS)."""
RECALLS = np.linspace(0, 1, 101)
"""The recalls at which COCO averages precision."""
FAR = 1e5
"""COCO's upper end of a person's size: the square root of its area, px."""
AREA_OF_BOX = 0.53
"""The share of a box that a person fills, where there are no areas (xtcocotools')."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall, -1 where there is no person to find.

    Attributes:
        precision: ``(T, R, C, A, M)``: by threshold of OKS, recall, category, size,
            and greatest number of poses an image.
        recall: ``(T, C, A, M)``.
        scores: ``(T, R, C, A, M)``: those at which the precision is reached.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


def precision_recall(
    persons: Iterable[Mapping],
    poses: Iterable[Mapping],
    *,
    images: Iterable[Hashable],
    categories: Iterable[Hashable],
    sigmas: Sequence[float],
    areas: Sequence[Sequence[float]],
    most: Sequence[int] = (20,),
    thresholds: Sequence[float] = THRESHOLDS,
    recalls: Sequence[float] = RECALLS,
) -> PrecisionRecall:
    """Compare poses with the persons of the same image and category.

    Args:
        persons: Each with ``image_id``, ``category_id``, ``keypoints`` (x, y, flag,
            …, ``(3K,)``, px), ``num_keypoints`` (0: nobody has to find it), ``area``
            (px²), ``bbox`` (x, y, width, height, px) and ``iscrowd``.
        poses: Each with ``image_id``, ``category_id``, ``keypoints`` (x, y, anything,
            …, ``(3K,)``), ``score`` and ``area``. One with a coordinate that is not
            finite fits nobody, and one with such a score is ranked last.
        images: The ids that count, in the order in which equal scores are ranked.
        categories: The ids that count.
        sigmas: How far apart people place each keypoint, as COCO's OKS takes it.
        areas: Ranges of persons' areas, px²: least and greatest.
        most: Numbers of poses an image of which the best-scored count.
        thresholds: Of OKS.
        recalls: At which precision is taken.

    Raises:
        InputError: A person or a pose has another number of keypoints than there are
            sigmas.
    """
    of_image = {id: number for number, id in enumerate(images)}
    of_category = {id: number for number, id in enumerate(categories)}

    def numbered(entries: Iterable[Mapping], copy: Callable) -> list[dict]:
        kept = []
        for entry in entries:
            image = of_image.get(entry['image_id'])
            category = of_category.get(entry['category_id'])
            if image is not None and category is not None:
                _check(entry, len(sigmas))
                place = dict(id=len(kept) + 1, image_id=image, category_id=category)
                kept.append(place | copy(entry))
        return kept

    def indexed(annotations: list[dict]) -> hotcoco.COCO:
        return hotcoco.COCO(
            {
                'images': [{'id': number} for number in of_image.values()],
                'categories': [
                    {'id': number, 'name': str(id)}
                    for id, number in of_category.items()
                ],
                'annotations': annotations,
            }
        )

    evaluation = hotcoco.COCOeval(
        indexed(numbered(persons, _person)),
        indexed(numbered(poses, _pose)),
        'keypoints',
    )
    settings = evaluation.params
    settings.kpt_oks_sigmas = [float(sigma) for sigma in sigmas]
    settings.iou_thrs = [float(value) for value in thresholds]
    settings.rec_thrs = [float(value) for value in recalls]
    settings.area_rng = [[float(low), float(high)] for low, high in areas]
    settings.area_rng_lbl = [str(number) for number in range(len(areas))]
    settings.max_dets = sorted(map(int, most))
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    return PrecisionRecall(arrays['precision'], arrays['recall'], arrays['scores'])


def _check(entry: Mapping, count: int) -> None:
    if len(entry['keypoints']) != 3 * count:
        raise InputError(
            f'A person or pose of image {entry["image_id"]} has '
            f'{len(entry["keypoints"])} numbers for {count} keypoints, not three each.'
        )


def _person(entry: Mapping) -> dict:
    return {
        'keypoints': entry['keypoints'],
        'num_keypoints': int(entry['num_keypoints']),
        'area': float(entry['area']),
        'bbox': [float(number) for number in entry['bbox']],
        'iscrowd': int(entry['iscrowd']),
    }


def _pose(entry: Mapping) -> dict:
    score = float(entry['score'])
    return {
        'keypoints': entry['keypoints'],
        'score': score if math.isfinite(score) else -math.inf,
        'area': float(entry['area']),
    }

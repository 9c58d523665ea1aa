"""COCO's evaluation of keypoints: precision and recall of poses ranked by their score.

hotcoco computes it, as xtcocotools and pycocotools do. What those three take for a
person that counts, for its area and for its keypoints differs; here the caller says it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import hotcoco
import numpy as np
from pycocotools.cocoeval import Params

from sapiens_plugin.errors import InputError

AREA_OF_BOX = 0.53
"""The share of a box that a person fills, where there are no areas (xtcocotools')."""


def precision_recall(
    persons: Iterable[Mapping],
    poses: Iterable[Mapping],
    *,
    sigmas: Sequence[float],
    params: Params,
) -> dict[str, np.ndarray]:
    """Compare poses with the persons of the same image and category.

    Args:
        persons: Each with ``image_id``, ``category_id``, ``keypoints`` (x, y, flag,
            …, ``(3K,)``, px), ``num_keypoints`` (0: nobody has to find it), ``area``
            (px²), ``bbox`` (x, y, width, height, px) and ``iscrowd``.
        poses: Each with ``image_id``, ``category_id``, ``keypoints`` (x, y, anything,
            …, ``(3K,)``), ``score`` and ``area``. One with a coordinate that is not
            finite fits nobody, and one with such a score is ranked last.
        sigmas: How far apart people place each keypoint, as COCO's OKS takes it.
        params: COCO's: which images (equal scores are ranked in their order) and
            categories count, thresholds, recalls, ranges of areas, and how many poses
            an image.

    Returns:
        ``precision``, ``(T, R, C, A, M)``: by threshold of OKS, recall, category, area,
        and number of poses an image; and ``recall``, ``(T, C, A, M)``. They are -1
        where there is no person to find.

    Raises:
        InputError: A person or a pose has another number of keypoints than there are
            sigmas.
    """
    of_image = {image: number for number, image in enumerate(params.imgIds)}
    of_category = {name: number for number, name in enumerate(params.catIds)}

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
                    {'id': number, 'name': str(name)}
                    for name, number in of_category.items()
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
    settings.iou_thrs = list(map(float, params.iouThrs))
    settings.rec_thrs = list(map(float, params.recThrs))
    settings.area_rng = [list(map(float, limits)) for limits in params.areaRng]
    settings.max_dets = sorted(map(int, params.maxDets))
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval[name] for name in ('precision', 'recall')}


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

"""A detector's boxes: of the images and the categories that the truth has."""

import logging
import os
from functools import cache

import numpy as np
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from sapiens_plugin.core.coco.annotations import HUGE, as_it_is
from sapiens_plugin.core.utils.amounts import some
from sapiens_plugin.core.utils.json_file import load_json
from sapiens_plugin.errors import InputError

from .annotations import CheckedCoco, compare_names


@cache
def read_detections_of_any_category() -> None:
    """Test a detector's boxes as the category that the truth has.

    Symptom:
        Detections of another category than 1 give AP 0, or none at all. Those of other
        images end in a KeyError.

    Cause:
        Category 1 is read, and neither the truth's own nor its images are asked for.

    Cure:
        The truth says which category is tested; what does not go together is refused.
    """
    BaseCocoStyleDataset._load_detection_results = load_detections


def load_detections(self: BaseCocoStyleDataset) -> list[dict]:
    """Load detections as MMPose does, of the category that the truth has.

    Raises:
        InputError: The file is not right, or not for these annotations.
    """
    boxes = _read_detections(self.bbox_file)
    with get_local_path(self.ann_file) as path:
        self.coco = CheckedCoco(path)
    truth = {'annotations': [], 'categories': [], **self.coco.dataset}
    self._metainfo['CLASSES'] = truth['categories']
    compare_names(self, truth['categories'])
    tested = _tested_categories(boxes, truth, self)
    boxes = [box for box in boxes if box['category_id'] in tested]
    images = self.coco.imgs
    if unknown := [b['image_id'] for b in boxes if b['image_id'] not in images]:
        raise InputError(
            f'{len(unknown):,} of {len(boxes):,} boxes in {self.bbox_file} are on '
            f'images that {self.ann_file} does not have, the first on "image_id" '
            f'{unknown[0]}. Name the two files of the same images, or leave these '
            'boxes out.'
        )
    count, persons = self._metainfo['num_keypoints'], []
    for index, box in enumerate(boxes):
        image = images[box['image_id']]
        corners = np.array([box['bbox'][:4]], np.float32)
        corners[:, 2:] += corners[:, :2]
        persons.append(
            {
                'img_id': box['image_id'],
                'img_path': os.path.join(  # noqa: PTH118  (as MMPose writes it)
                    self.data_prefix['img'], image['file_name']
                ),
                'img_shape': (image['height'], image['width']),
                'bbox': corners,
                'bbox_score': np.array([box['score']], np.float32),
                'category_id': tested[box['category_id']],
                # No labels: MMPose's transforms ask for some.
                'keypoints': np.zeros((1, count, 2), np.float32),
                'keypoints_visible': np.ones((1, count), np.float32),
                'id': index,
            }
        )
    return persons


def _tested_categories(
    boxes: list[dict], truth: dict, dataset: BaseCocoStyleDataset
) -> dict[int, int]:
    """Tell which categories of the detections are tested, and as which of the truth."""
    found = {box['category_id'] for box in boxes}
    labelled = {a['category_id'] for a in truth['annotations'] if 'keypoints' in a}
    named = {c['id'] for c in truth['categories'] if c.get('keypoints')}
    true = labelled or named or {1}  # COCO's test images have neither
    tested = {one: one for one in found & true}
    if not tested and len(found) == len(true) == 1:
        tested = dict(zip(found, true, strict=True))
    told = (
        f'The boxes in {dataset.bbox_file} are of category_id {some(found, most=5)}, '
        f'and the persons in {dataset.ann_file} of category_id {some(true, most=5)}.'
    )
    if found and not tested:
        raise InputError(
            f'{told} Which are to be tested cannot be told: write the category_id of '
            'the annotation file into the detections, or leave the others out.'
        )
    is_mapped = any(one != other for one, other in tested.items())
    if is_mapped or (found - tested.keys() and true != {1}):
        used = ', '.join(f'{one} as {other}' for one, other in sorted(tested.items()))
        print_log(
            f'{told} Tested are those of {used}.',
            logger='current',
            level=logging.WARNING,
        )
    return tested


def _read_detections(path: str) -> list[dict]:
    # MMEngine would unpickle by the ending, and so run what is in the file.
    if not path.endswith('.json'):
        raise InputError(
            f'The file of person detections {path} is not a .json file. Other kinds '
            'are not read: a pickle would run code. Export it as JSON.'
        )
    content = load_json(path)
    if not isinstance(content, list):
        raise InputError(f'{path} is not a list of person detections.')
    for index, entry in enumerate(content):
        field = _wrong_field(entry) if isinstance(entry, dict) else None
        if field or not isinstance(entry, dict):
            told = as_it_is(entry, field) if field else 'no object with fields'
            raise InputError(
                f'Entry [{index}] of the person detections {path} is not right '
                f'({told}): each needs "image_id", "category_id", "bbox" of 4 numbers '
                '[x, y, width, height] and a "score".'
            )
    return content


def _wrong_field(entry: dict) -> str | None:
    """Name the first field of a detection that is missing or of another kind."""
    for field in ('image_id', 'category_id'):
        if type(entry.get(field)) is not int:
            return field
    box = entry.get('bbox')
    if not isinstance(box, list) or len(box) < 4 or not all(map(_is_number, box)):
        return 'bbox'
    return None if _is_number(entry.get('score')) else 'score'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < HUGE

"""Annotation files from anywhere: checked as they are read."""

import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path

from mmpose.datasets.datasets.base import BaseCocoStyleDataset, base_coco_style_dataset
from mmpose.evaluation.metrics import CocoMetric, coco_metric
from xtcocotools.coco import COCO

from sapiens_plugin.core.coco.annotations import HUGE, as_it_is
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.dataset_check.stoppers import (
    check_entries,
    check_evaluated,
    check_person,
)

# What reading code raises at entries of a form that it did not expect.
_UNEXPECTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@cache
def check_annotation_files() -> None:
    """Check annotation files as they are read, and keep what sizes they tell.

    Symptom:
        KeyError: 'file_name', and the like, without the name of the file. Or hours
        into an epoch, at the one person with 16 keypoints; or at the first validation,
        as an area is missing. On Windows, a name in UTF-8 stops the job. Labels lie
        beside pictures that have an EXIF orientation and were labelled unturned.

    Cause:
        The stack takes files for what they should be. The sizes that annotations give
        reach the pipeline with a detector's boxes, and with true boxes not.

    Cure:
        A file is checked while its data set is built, and the metric's file when the
        metric learns of its data set, before training. Sizes come with all persons.
    """
    base_coco_style_dataset.COCO = CheckedCoco
    coco_metric.COCO = Utf8Coco
    dataset = BaseCocoStyleDataset
    dataset.parse_data_info = checked_parse(dataset.parse_data_info)
    dataset.load_data_list = checked_load(dataset.load_data_list)
    meta = CocoMetric.dataset_meta
    CocoMetric.dataset_meta = meta.setter(checked_meta(meta.fset))


class Utf8Coco(COCO):
    """A COCO file, read as UTF-8 whatever the system's encoding is.

    Args:
        annotation_file: The file.

    Raises:
        InputError: It is no JSON in UTF-8.
    """

    def __init__(self, annotation_file: str):
        super().__init__(annotation_file, ann_data=_load_json(annotation_file))


class CheckedCoco(COCO):
    """A COCO file, its entries checked before they are indexed.

    Args:
        annotation_file: The file, UTF-8.

    Raises:
        InputError: It is no JSON, or no COCO file.
    """

    def __init__(self, annotation_file: str):
        content = _load_json(annotation_file)
        check_entries(content, annotation_file)
        super().__init__(annotation_file, ann_data=content)


def checked_parse(parse_data_info: Callable) -> Callable:
    """Check a person, and leave the size that the labels are in with it.

    The detector's boxes come with their images' sizes; true boxes do not. By it
    :class:`~sapiens_plugin.datasets.transforms.load_image.LoadImage` knows whether the
    labels were drawn on the turned picture.
    """

    @wraps(parse_data_info)
    def parse(self: BaseCocoStyleDataset, raw_data_info: dict) -> dict | None:
        person, image = raw_data_info['raw_ann_info'], raw_data_info['raw_img_info']
        if 'bbox' in person and 'keypoints' in person:
            # The property without the underscore copies all of it, every time.
            check_person(person, self._metainfo['num_keypoints'], self.ann_file)
        info = parse_data_info(self, raw_data_info)
        if info is not None:
            info['img_shape'] = (image['height'], image['width'])
        return info

    return parse


def checked_load(load_data_list: Callable) -> Callable:
    """Read annotations and detections, or say which file is not right.

    Raises (the function returned):
        InputError: A file is not what it should be, or there is nobody in it.
    """

    @wraps(load_data_list)
    def load(self: BaseCocoStyleDataset) -> list[dict]:
        if self.bbox_file:
            _check_detections(self.bbox_file)
        try:
            persons = load_data_list(self)
        except InputError:
            raise
        except _UNEXPECTED as error:
            files = ' or '.join(filter(None, (self.ann_file, self.bbox_file)))
            raise InputError(
                f'MMPose cannot read {files}: {type(error).__name__}: {error}. '
                f'`python3 tools/check_dataset.py {self.ann_file} IMAGES` lists what '
                'is wrong with an annotation file.'
            ) from error
        if not persons:
            raise InputError(_nobody(self))
        return persons

    return load


def checked_meta(set_dataset_meta: Callable) -> Callable:
    """Check what predictions will be compared with: it is known before training."""

    @wraps(set_dataset_meta)
    def set_meta(self: CocoMetric, dataset_meta: dict) -> None:
        set_dataset_meta(self, dataset_meta)
        if self.coco is not None and self.iou_type == 'keypoints':
            check_evaluated(
                self.coco.dataset,
                None if self.gt_converter else dataset_meta['num_keypoints'],
                self.coco.anno_file[0],
                area=self.use_area,
            )

    return set_meta


def _nobody(dataset: BaseCocoStyleDataset) -> str:
    if dataset.bbox_file:
        return (
            f'{dataset.bbox_file} has no boxes of persons (category_id 1) to test on. '
            'Is it the right file?'
        )
    return (
        f'{dataset.ann_file} has no person to train or test on: an annotation with the '
        '"image_id" of one of its images, labelled "keypoints" and a "bbox" inside the '
        'image, and not a crowd. '
        f'`python3 tools/check_dataset.py {dataset.ann_file} IMAGES` says what is '
        'wrong with those that are there.'
    )


def _load_json(path: str) -> object:
    try:
        with Path(path).open(encoding='utf-8') as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{path} is not JSON in UTF-8: {error}. Fetch or export it again, whole '
            'and in UTF-8 without a byte order mark (BOM).'
        ) from None
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror or error}.') from None


def _check_detections(path: str) -> None:
    # MMEngine would unpickle by the ending, and so run what is in the file.
    if not path.endswith('.json'):
        raise InputError(
            f'The file of person detections {path} is not a .json file. Other kinds '
            'are not read: a pickle would run code. Export it as JSON.'
        )
    content = _load_json(path)
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

"""Annotation files from anywhere: checked as they are read."""

import logging
import re
import sys
from collections.abc import Callable
from functools import cache, partial, wraps
from itertools import zip_longest
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from mmpose.datasets.datasets import CocoWholeBodyDataset
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.evaluation.metrics import CocoMetric, CocoWholeBodyMetric, coco_metric
from xtcocotools.coco import COCO

from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS
from sapiens_plugin.core.utils.json_file import load_json
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.dataset_check.stoppers import (
    check_entries,
    check_evaluated,
    check_person,
)
from sapiens_plugin.workbench.setup_check.setup_checks import check_can_write

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
        metric learns of its data set, before training. Sizes come with all persons,
        whichever class reads them.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith('mmpose.datasets.') and 'COCO' in vars(module):
            module.COCO = CheckedCoco
    dataset = BaseCocoStyleDataset
    for reader in (dataset, CocoWholeBodyDataset):
        reader.parse_data_info = checked_parse(reader.parse_data_info)
    dataset.load_data_list = checked_load(dataset.load_data_list)
    coco_metric.load = lambda _: ['annotations']  # asked for when they are needed
    meta = CocoMetric.dataset_meta
    CocoMetric.dataset_meta = meta.setter(checked_meta(meta.fset))


class CheckedCoco(COCO):
    """A COCO file, its entries checked before they are indexed.

    Args:
        annotation_file: The file, UTF-8.

    Raises:
        InputError: It is no JSON, or no COCO file.
    """

    def __init__(self, annotation_file: str):
        content = load_json(annotation_file)
        check_entries(content, annotation_file)
        super().__init__(annotation_file, ann_data=content)


def checked_parse(parse_data_info: Callable) -> Callable:
    """Check an annotation before it is read as a person."""

    @wraps(parse_data_info)
    def parse(self: BaseCocoStyleDataset, raw_data_info: dict) -> dict | None:
        person = raw_data_info['raw_ann_info']
        # The property without the underscore copies all of it, every time.
        fields = {'keypoints': self._metainfo['num_keypoints']}
        if isinstance(self, CocoWholeBodyDataset):
            fields = WHOLEBODY_FIELDS
        if fields is WHOLEBODY_FIELDS or ('bbox' in person and 'keypoints' in person):
            check_person(person, fields, self.ann_file)
        return parse_data_info(self, raw_data_info)

    return parse


def checked_load(load_data_list: Callable) -> Callable:
    """Read annotations and detections, or say which file is not right.

    What classes with a reader of their own make of annotations is checked as well. With
    each person comes the size that the labels are in, by which
    :func:`~sapiens_plugin.compat.images.read_images_as_labelled` knows whether they
    were drawn on the turned picture.

    Raises (the function returned):
        InputError: A file is not what it should be, or there is nobody in it.
    """

    @wraps(load_data_list)
    def load(self: BaseCocoStyleDataset) -> list[dict]:
        sizes: dict[int, tuple[int, int]] = {}
        # A class's own reader, if it has one, is called in this one.
        self._load_annotations = partial(_read, self, self._load_annotations, sizes)
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
        finally:
            del self._load_annotations
        if not persons:
            raise InputError(_nobody(self))
        for person in persons:
            if person['img_id'] in sizes:
                person['img_shape'] = sizes[person['img_id']]
        return persons

    return load


def _read(
    dataset: BaseCocoStyleDataset, read: Callable, sizes: dict
) -> tuple[list[dict], list[dict]]:
    """Read annotations; note the (height, width) of each image by its id."""
    persons, images = read()
    if coco := getattr(dataset, 'coco', None):  # MPII's file is of another form
        if 'annotations' not in coco.dataset:
            raise InputError(
                f'{dataset.ann_file} has no list "annotations", so there is nobody to '
                "train on, and no true box to test on. A test takes a detector's "
                'boxes: test_dataloader.dataset.bbox_file.'
            )
        compare_names(dataset, coco.dataset['categories'])
    if not _reads_plainly(dataset):
        for person in persons:
            _check_read(person, dataset)
    sizes.update(
        (image['img_id'], (image['height'], image['width']))
        for image in images
        if 'height' in image and 'width' in image
    )
    return persons, images


def _reads_plainly(dataset: BaseCocoStyleDataset) -> bool:
    """Whether annotations are checked before a class reads them."""
    kind = type(dataset)
    return kind._load_annotations is BaseCocoStyleDataset._load_annotations and hasattr(
        kind.parse_data_info, '__wrapped__'
    )


def _check_read(person: dict, dataset: BaseCocoStyleDataset) -> None:
    """Check what a class's own reader made of an annotation."""
    flags = person['keypoints_visible'][..., None]
    points = np.concatenate([person['keypoints'], flags], axis=-1)
    left, top, right, bottom = np.asarray(person['bbox'], float).ravel().tolist()
    same = dict(
        id=person['id'],
        image_id=person['img_id'],
        bbox=[left, top, right - left, bottom - top],
        keypoints=points.ravel().tolist(),
    )
    fields = {'keypoints': dataset._metainfo['num_keypoints']}
    check_person(same, fields, dataset.ann_file)


def compare_names(dataset: BaseCocoStyleDataset, categories: list[dict]) -> None:
    """Warn of keypoints that the file calls otherwise than the data set."""
    named = [one['keypoints'] for one in categories if one.get('keypoints')]
    names = list(map(str, named[0])) if named else []
    known = list(dataset._metainfo['keypoint_id2name'].values())
    if isinstance(dataset, CocoWholeBodyDataset):  # the file names those of the body
        known = known[: len(names)]
    if not names or (len(names) != len(known) and not _reads_plainly(dataset)):
        return
    for index, (own, other) in enumerate(zip_longest(names, known), start=1):
        if _plain(own) != _plain(other):
            print_log(
                f'{dataset.ann_file} calls keypoint {index} {own!r}, and the metainfo '
                f'of its data set {other!r} ({len(names)} and {len(known)} names). '
                'Keypoints are taken by their order: if the meaning differs too, '
                'flips swap the wrong ones and AP weighs them wrongly. Give the data '
                "set a metainfo in the file's order.",
                logger='current',
                level=logging.WARNING,
            )
            return


def _plain(name: str | None) -> str | None:
    """Write a name as all tools do: "Left Eye" is left_eye."""
    return name and re.sub(r'[\W_]+', '', name).lower()


def checked_meta(set_dataset_meta: Callable) -> Callable:
    """Check where predictions go and what they are compared with, before training."""

    @wraps(set_dataset_meta)
    def set_meta(self: CocoMetric, dataset_meta: dict) -> None:
        set_dataset_meta(self, dataset_meta)
        if self.outfile_prefix:
            way_out = "Name another by the evaluator's outfile_prefix."
            check_can_write(Path(self.outfile_prefix).parent, way_out=way_out)
        # CrowdPose's and PoseTrack's files are evaluated by other rules.
        evaluation = type(self)._do_python_keypoint_eval
        wholebody = evaluation is CocoWholeBodyMetric._do_python_keypoint_eval
        known = wholebody or evaluation is CocoMetric._do_python_keypoint_eval
        if self.coco is None or self.format_only or not known:
            return
        path, content = self.coco.anno_file[0], self.coco.dataset
        if not content.get('annotations'):
            raise InputError(
                f'{path} has no "annotations" to compare predictions with. To write '
                "them to a file and no more: test_evaluator=dict(type='CocoMetric', "
                "format_only=True, outfile_prefix='FILE')."
            )
        if self.iou_type == 'keypoints':
            fields = {'keypoints': dataset_meta['num_keypoints']}
            if wholebody:
                fields = WHOLEBODY_FIELDS
            elif self.gt_converter:
                fields = None
            check_evaluated(content, fields, path, area=self.use_area)
        if wholebody and all(a['category_id'] != 1 for a in content['annotations']):
            raise InputError(
                f'{path} has no annotation with "category_id" 1, which is what '
                'CocoWholeBodyMetric calls every prediction: AP would stay at 0. Write '
                '1 into the annotations and their category.'
            )

    return set_meta


def _nobody(dataset: BaseCocoStyleDataset) -> str:
    if dataset.bbox_file:
        return (
            f'{dataset.bbox_file} has no boxes of persons to test on. '
            'Is it the right file?'
        )
    return (
        f'{dataset.ann_file} has no person to train or test on: an annotation with the '
        '"image_id" of one of its images, labelled "keypoints" and a "bbox" inside the '
        'image, and not a crowd. '
        f'`python3 tools/check_dataset.py {dataset.ann_file} IMAGES` says what is '
        'wrong with those that are there.'
    )

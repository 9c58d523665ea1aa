"""A stand-in for xtcocotools, from which MMPose imports COCO's interface."""

import copy
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain

import numpy as np
import pycocotools.coco
import pycocotools.mask
from pycocotools.cocoeval import Params

from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS
from sapiens_plugin.core.coco.precision_recall import AREA_OF_BOX, precision_recall
from sapiens_plugin.core.utils.json_file import load_json
from sapiens_plugin.errors import InputError

from .imports import make_module

ORIGINAL = 'SAPIENS_XTCOCOTOOLS'
"""The environment variable that, set to 1, takes the installed xtcocotools."""

# What else than "keypoints" a person consists of, by the type of evaluation.
_FIELDS = {
    'keypoints_foot': ['foot_kpts'],
    'keypoints_face': ['face_kpts'],
    'keypoints_lefthand': ['lefthand_kpts'],
    'keypoints_righthand': ['righthand_kpts'],
    'keypoints_wholebody': list(WHOLEBODY_FIELDS),
}
_KINDS = ['keypoints', 'keypoints_body', 'keypoints_crowd', *_FIELDS]
_COPIED = ['image_id', 'category_id', 'bbox', 'iscrowd']
# CrowdPose's easy, medium and hard images: how far persons hide each other.
_CROWDING = ((-np.inf, 0.2), (0.2, 0.8), (0.8, np.inf))


def takes_original() -> bool:
    """Whether the user wants xtcocotools itself, for comparison.

    Raises:
        InputError: The variable is neither 0 nor 1.
    """
    value = os.environ.get(ORIGINAL) or '0'
    if value not in ('0', '1'):
        raise InputError(f'{ORIGINAL}={value} is neither 0 nor 1.')
    return value == '1'


@cache
def stand_in_for_xtcocotools() -> None:
    """Let MMPose import xtcocotools, whether or not it is there.

    Symptom:
        ``import mmpose``: No module named 'xtcocotools'.

    Cause:
        Its last wheels are for Python 3.11 and NumPy 1.

    Cure:
        A stand-in of its name on pycocotools and hotcoco, with the same numbers. It
        evaluates keypoints alone. With ``SAPIENS_XTCOCOTOOLS=1`` the package itself is
        taken, if it has been built from its source.

    Raises:
        InputError: The package itself is wanted and not there.
    """
    if takes_original():
        if importlib.util.find_spec('xtcocotools') is None:
            raise InputError(
                f'{ORIGINAL}=1 takes xtcocotools, which is not installed. Build it, as '
                f'benchmarks/coco_evaluation.py says, or unset {ORIGINAL}.'
            )
        return
    modules = {
        'coco': make_module('xtcocotools.coco', COCO=COCO),
        'cocoeval': make_module('xtcocotools.cocoeval', COCOeval=COCOeval),
        'mask': pycocotools.mask,
    }
    sys.modules['xtcocotools'] = make_module('xtcocotools', __path__=[], **modules)
    sys.modules |= {f'xtcocotools.{name}': module for name, module in modules.items()}


class COCO(pycocotools.coco.COCO):
    """An annotation file in COCO's form, with indices of its entries.

    Args:
        annotation_file: The file, UTF-8.
        ann_data: Its content, if that has been read already.

    Attributes:
        anno_file: A list with the file.
        fresh: A file of results that has just been written, and its content, for
            ``loadRes`` not to read it; None most of the time.

    Raises:
        InputError: The file is no JSON in UTF-8, or no object.
    """

    def __init__(
        self,
        annotation_file: str | None = None,
        ann_data: dict | None = None,
    ):
        super().__init__()
        self.anno_file = [annotation_file]
        self.fresh: tuple[str, list[dict]] | None = None
        if annotation_file is not None or ann_data is not None:
            self.dataset = load_json(annotation_file) if ann_data is None else ann_data
            if not isinstance(self.dataset, dict):
                raise InputError(
                    f'{annotation_file} is a JSON {type(self.dataset).__name__}, not '
                    'an annotation file: those are objects with "images", '
                    '"annotations" and "categories".'
                )
            for annotation in self.dataset.get('annotations', []):
                annotation.setdefault('iscrowd', False)
            self.createIndex()

    def loadRes(self, results: str | list[dict]) -> 'COCO':
        """Index results: poses of the file's images.

        Args:
            results: A JSON file, or its content, which is written into.

        Raises:
            InputError: They are no results, or those of other images.
        """
        content = results
        if self.fresh and results == self.fresh[0]:
            content = self.fresh[1]
        elif isinstance(results, str):
            content = load_json(results)
        if not isinstance(content, list):
            raise InputError(f'{results} is no list of results.')
        strange = {result['image_id'] for result in content} - self.imgs.keys()
        if strange:
            raise InputError(
                f'{self.anno_file[0]} lacks {len(strange)} of the images with results, '
                f'such as {min(strange, key=str)}: they are those of other data.'
            )
        for number, result in enumerate(content, start=1):
            result.update(id=number, area=_extent(result))
        found = COCO()
        found.dataset = {
            'images': list(self.dataset['images']),
            'categories': list(self.dataset.get('categories', [])),
            'annotations': content,
        }
        found.createIndex()
        return found


class COCOeval:
    """Compares poses with annotated ones as xtcocotools does.

    Args:
        cocoGt: The annotations.
        cocoDt: What their ``loadRes`` returned.
        iouType: ``'keypoints'``, a part of the whole body, or ``'keypoints_crowd'``.
        sigmas: How far apart people place each keypoint, ``(K,)``.
        use_area: Whether annotations have areas; else 0.53 of their boxes is taken.

    Attributes:
        params: What is evaluated, all categories by themselves.
        eval: ``precision`` and ``recall`` once they are accumulated.
        stats: The numbers of the summary, ``(10,)``; for ``'keypoints_crowd'``
            ``(9,)``.

    Raises:
        InputError: It is another type of evaluation.
    """

    def __init__(
        self,
        cocoGt: COCO,
        cocoDt: COCO,
        iouType: str,
        sigmas: Sequence[float],
        use_area: bool = True,
    ):
        if iouType not in _KINDS:
            raise InputError(
                f'iou_type={iouType!r} is none of {", ".join(_KINDS)}. For boxes and '
                'masks there is pycocotools.cocoeval.COCOeval.'
            )
        if not cocoGt.cats:
            raise InputError(f'{cocoGt.anno_file[0]} has no "categories".')
        self.cocoGt, self.cocoDt = cocoGt, cocoDt
        self.sigmas, self.use_area = sigmas, use_area
        self.params = Params('keypoints')
        self.params.iouType = iouType
        self.params.imgIds = sorted(cocoGt.getImgIds())
        self.params.catIds = sorted(cocoGt.getCatIds())
        self.eval: dict[str, np.ndarray] = {}
        self.stats = np.zeros(0)

    def evaluate(self) -> None:
        """Do nothing: all is computed where it is accumulated."""

    def accumulate(self) -> None:
        """Compute precision and recall."""
        self.eval = self._compare(self.params)

    def summarize(self) -> None:
        """Print the usual numbers, and leave them in ``stats``.

        Raises:
            RuntimeError: Nothing has been accumulated.
        """
        if not self.eval:
            raise RuntimeError('summarize() comes after accumulate().')
        crowd = self.params.iouType == 'keypoints_crowd'
        rows = [('all', None), ('all', 0.5), ('all', 0.75)]
        if not crowd:
            rows += [('medium', None), ('large', None)]
        stats = [self._mean(of, *row) for of in ('precision', 'recall') for row in rows]
        if crowd:
            stats += [self._crowded(*limits) for limits in _CROWDING]
        self.stats = np.array(stats)

    def _mean(self, name: str, size: str, threshold: float | None) -> float:
        values = self.eval[name][..., self.params.areaRngLbl.index(size), -1]
        if threshold is not None:
            values = values[np.isclose(self.params.iouThrs, threshold)]
        valid = values[values > -1]
        mean = float(valid.mean()) if valid.size else -1.0
        kind = 'Precision (AP)' if name == 'precision' else 'Recall    (AR)'
        overlap = '0.50:0.95' if threshold is None else f'{threshold:.2f}     '
        print(
            f' Average {kind} @[ OKS={overlap} | area={size:>6} | '
            f'maxDets={self.params.maxDets[-1]:>3} ] = {mean: .3f}'
        )
        return mean

    def _crowded(self, least: float, most: float) -> float:
        """Return the AP of the images of such a crowding, as CrowdPose counts it.

        Its mean counts the -1 of what has no persons, and it has four digits.
        """
        params = copy.copy(self.params)
        try:
            params.imgIds = [
                image['id']
                for image in self.cocoGt.dataset['images']
                if least <= image['crowdIndex'] < most
            ]
        except (KeyError, TypeError) as error:
            raise InputError(
                f'Images of {self.cocoGt.anno_file[0]} have no "crowdIndex" from 0 to '
                "1, by which iou_type='keypoints_crowd' tells them apart."
            ) from error
        if not params.imgIds:
            return -1.0
        return round(float(self._compare(params)['precision'][:, :, :, 0].mean()), 4)

    def _compare(self, params: Params) -> dict[str, np.ndarray]:
        params = copy.copy(params)
        params.imgIds = sorted(set(params.imgIds))  # some files name an image twice
        # In the type that they have: the original squares float32 as float32.
        sigmas = np.sqrt(((np.asarray(self.sigmas) * 2) ** 2).astype(float)) / 2
        fields = _FIELDS.get(params.iouType, ['keypoints'])
        score = f'{params.iouType.removeprefix("keypoints_")}_score'
        persons = (
            self._person(annotation, fields)
            for annotation in self._entries(self.cocoGt, params.imgIds)
        )
        poses = (
            result | {'keypoints': points, 'score': result.get(score, result['score'])}
            for result in self._entries(self.cocoDt, params.imgIds)
            # Without any score it is no pose.
            if np.any((points := _joined(result, fields))[2::3] > 0)
        )
        return precision_recall(persons, poses, sigmas=sigmas, params=params)

    @staticmethod
    def _entries(coco: COCO, images: Sequence) -> Iterator[dict]:
        # By their ids, as the original does: of an id that is there twice the last
        # counts, and CocoMetric(gt_converter=...) changes "anns" alone.
        found = chain.from_iterable(coco.imgToAnns.get(image, ()) for image in images)
        return (coco.anns[entry['id']] for entry in found)

    def _person(self, annotation: Mapping, fields: list[str]) -> dict:
        try:
            keypoints = _joined(annotation, fields)
            labelled = np.count_nonzero(keypoints[2::3] > 0)
            if self.params.iouType == 'keypoints_crowd':
                labelled = annotation['num_keypoints']  # CrowdPose's: the visible ones
            person = {name: annotation[name] for name in _COPIED}
            _, _, width, height = annotation['bbox']
            area = height * width * AREA_OF_BOX
            if self.use_area:
                area = annotation['area']
        except KeyError as error:
            way_out = (
                ': use_area=False takes the box.' if error.args == ('area',) else '.'
            )
            raise InputError(
                f'Annotation {annotation["id"]} of {self.cocoGt.anno_file[0]} has no '
                f'{error}, by which {self.params.iouType!r} are evaluated{way_out}'
            ) from error
        return person | dict(keypoints=keypoints, num_keypoints=labelled, area=area)


def _joined(entry: Mapping, fields: list[str]) -> np.ndarray:
    parts = [np.asarray(entry[name]) for name in fields]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _extent(result: Mapping) -> float:
    """Return the area of a pose: of its box, or of what its keypoints span, px²."""
    if len(result.get('bbox', ())):
        # In float64, as of the numbers of a file.
        return float(result['bbox'][2]) * float(result['bbox'][3])
    points = np.asarray(result['keypoints'], dtype=float).reshape(-1, 3)[:, :2]
    return float(np.prod(np.ptp(points, axis=0)))

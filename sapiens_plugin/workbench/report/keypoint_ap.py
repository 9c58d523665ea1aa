"""COCO's evaluation of keypoints, taken apart: by keypoint, by size, by person.

Average precision (AP) is COCO's throughout: the mean over ten thresholds of object
keypoint similarity (OKS) from 0.50 to 0.95 of the precision at 101 recalls, detections
ranked by the score of the person.

- The AP of a keypoint is that of an evaluation in which a person consists of this
  keypoint alone, with its own sigma and the person's area. Persons in whom it is not
  labelled are ignored, as COCO ignores persons without any label.
- The AP of a size is that of an evaluation which ignores all other sizes, as COCO's
  own AP of medium and large persons is.

A prediction with a number that is not finite, as a model that has diverged makes them,
fits nobody and is left out.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import Params
from scipy.optimize import linear_sum_assignment

from sapiens_plugin.core.coco.precision_recall import AREA_OF_BOX, precision_recall
from sapiens_plugin.errors import InputError

FAR = 1e5  # px, as in COCO
# Square roots of areas, px: COCO's two sizes, then finer.
COCO_SIZES = ((32, 96), (96, FAR))
FINE_SIZES = ((0, 32), (32, 64), (64, 96), (96, 160), (160, 256), (256, FAR))


@dataclass(frozen=True)
class Precision:
    """What COCO's evaluation says of a part of the persons or keypoints.

    Attributes:
        persons: How many count in it.
        ap: Average precision, mean over OKS 0.50 to 0.95; NaN without persons.
        ap50: Precision at OKS 0.50.
        ar: Average recall, mean over OKS 0.50 to 0.95.
    """

    persons: int
    ap: float
    ap50: float
    ar: float


@dataclass(frozen=True)
class Person:
    """A person of the annotations with the prediction that belongs to it.

    Attributes:
        annotation: The entry of the annotation file.
        prediction: x, y (px) and score of every keypoint, ``(K, 3)``; None if there
            is none left for it.
        oks: How near the prediction is, 0 to 1.
    """

    annotation: dict
    prediction: np.ndarray | None
    oks: float


class Evaluation:
    """Compares predictions with the annotations of a COCO keypoint file.

    Args:
        dataset: The annotation file's content; not changed.
        results: Predictions in COCO's results form.
        sigmas: Of the keypoints, ``(K,)``.

    Attributes:
        dropped: How many predictions are not finite.

    Raises:
        InputError: The annotations are not those of keypoints, have another number of
            them, or lack images of the predictions.
    """

    def __init__(
        self, dataset: dict, results: Sequence[dict], *, sigmas: Sequence[float]
    ):
        self._sigmas = np.asarray(sigmas, dtype=float)
        try:
            self._dataset = self._prepared(dataset)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f'An entry of the annotations is not that of COCO keypoints: {error!r}.'
            ) from error
        images = {image['id'] for image in self._dataset['images']}
        self._results = [result for result in results if _is_finite(result)]
        self.dropped = len(results) - len(self._results)
        strange = {result['image_id'] for result in results} - images
        if strange:
            raise InputError(
                f'The annotations lack {len(strange)} of the images with predictions, '
                f'such as {min(strange, key=str)}: they are those of other data.'
            )

    @property
    def images(self) -> list[dict]:
        """The entries of images."""
        return self._dataset['images']

    @property
    def persons(self) -> list[dict]:
        """The annotations with a labelled keypoint, but for crowds."""
        return [
            annotation
            for annotation in self._dataset['annotations']
            if annotation['num_keypoints'] and not annotation['iscrowd']
        ]

    def overall(self) -> Precision:
        """Return COCO's own numbers."""
        return self._evaluate(self._dataset, self._sigmas, [(0, FAR)])[0]

    def by_size(self, sizes: Sequence[tuple[float, float]]) -> list[Precision]:
        """Return the numbers of each size.

        Args:
            sizes: Least and greatest square root of the area, px.
        """
        return self._evaluate(self._dataset, self._sigmas, sizes)

    def by_keypoint(self) -> list[Precision]:
        """Return the numbers of each keypoint, in their order."""
        return [self._of_keypoint(index) for index in range(len(self._sigmas))]

    def matched(self) -> list[Person]:
        """Give every person the prediction of its image that suits it.

        A prediction goes to one person, and all of an image's are given so that the
        sum of their OKS is greatest.
        """
        predictions = defaultdict(list)
        for result in self._results:
            keypoints = np.asarray(result['keypoints'], dtype=float).reshape(-1, 3)
            predictions[result['image_id']].append(keypoints)
        annotations = defaultdict(list)
        for annotation in self.persons:
            annotations[annotation['image_id']].append(annotation)
        persons = []
        for image, group in annotations.items():
            found = predictions[image]
            similarity = np.array(
                [[self._oks(a, keypoints) for keypoints in found] for a in group]
            ).reshape(len(group), len(found))
            pairs = zip(*linear_sum_assignment(similarity, maximize=True), strict=True)
            of_person = {int(row): int(column) for row, column in pairs}
            for row, annotation in enumerate(group):
                column = of_person.get(row)
                persons.append(
                    Person(annotation, None, 0.0)
                    if column is None
                    else Person(
                        annotation, found[column], float(similarity[row, column])
                    )
                )
        return persons

    def _oks(self, annotation: dict, prediction: np.ndarray) -> float:
        """Return COCO's object keypoint similarity of a prediction ``(K, 3)``."""
        truth = np.asarray(annotation['keypoints'], dtype=float).reshape(-1, 3)
        squared = ((prediction[:, :2] - truth[:, :2]) ** 2).sum(axis=1)
        tolerance = 2 * (annotation['area'] + np.spacing(1)) * (2 * self._sigmas) ** 2
        return float(np.exp(-squared / tolerance)[truth[:, 2] > 0].mean())

    def _of_keypoint(self, index: int) -> Precision:
        part = slice(3 * index, 3 * index + 3)
        annotations = [
            annotation
            | {
                'keypoints': annotation['keypoints'][part],
                'num_keypoints': int(annotation['keypoints'][3 * index + 2] > 0),
            }
            for annotation in self._dataset['annotations']
        ]
        return self._evaluate(
            self._dataset | {'annotations': annotations},
            self._sigmas[index : index + 1],
            [(0, FAR)],
            keypoints=part,
        )[0]

    def _evaluate(
        self,
        dataset: dict,
        sigmas: np.ndarray,
        sizes: Sequence[tuple[float, float]],
        *,
        keypoints: slice = slice(None),
    ) -> list[Precision]:
        params = Params('keypoints')
        params.imgIds = sorted(image['id'] for image in dataset['images'])
        params.catIds = sorted(category['id'] for category in dataset['categories'])
        params.areaRng = [[low**2, high**2] for low, high in sizes]
        found = (
            {
                'image_id': result['image_id'],
                'category_id': result.get('category_id', 1),
                'score': result['score'],
                'area': _area(result),
                'keypoints': result['keypoints'][keypoints],
            }
            for result in self._results
        )
        compared = precision_recall(
            dataset['annotations'],
            found,
            sigmas=sigmas,
            params=params,
        )
        # Thresholds × recalls × categories × sizes.
        precision, recall = (
            compared[name][..., -1] for name in ('precision', 'recall')
        )
        counts = [
            sum(
                low**2 <= annotation['area'] <= high**2
                for annotation in dataset['annotations']
                if annotation['num_keypoints'] and not annotation['iscrowd']
            )
            for low, high in sizes
        ]
        return [
            Precision(
                persons=count,
                ap=_mean(precision[..., number]),
                ap50=_mean(precision[0, ..., number]),
                ar=_mean(recall[..., number]),
            )
            for number, count in enumerate(counts)
        ]

    def _prepared(self, dataset: dict) -> dict:
        """Return a data set of its own, with what files in COCO's form may leave out.

        Raises:
            InputError: A person has another number of keypoints.
        """
        images = [
            {
                'id': image['id'],
                'file_name': str(image['file_name']),
                'size': (image.get('width'), image.get('height')),  # px
            }
            for image in dataset['images']
        ]
        known = {image['id'] for image in images}
        annotations = []
        for annotation in dataset['annotations']:
            keypoints = annotation.get('keypoints')
            # COCO's evaluation passes over persons of no image.
            if keypoints is None or annotation['image_id'] not in known:
                continue
            if len(keypoints) != 3 * len(self._sigmas):
                raise InputError(
                    f'Annotation {annotation["id"]} has {len(keypoints)} numbers for '
                    f'{len(self._sigmas)} keypoints, not three each.'
                )
            width, height = annotation['bbox'][2:]
            annotations.append(
                {
                    'id': annotation['id'],
                    'image_id': annotation['image_id'],
                    'category_id': annotation['category_id'],
                    'iscrowd': annotation.get('iscrowd', 0),
                    'bbox': annotation['bbox'],
                    'area': float(annotation.get('area', width * height * AREA_OF_BOX)),
                    'keypoints': keypoints,
                    'num_keypoints': sum(flag > 0 for flag in keypoints[2::3]),
                }
            )
        return {
            'images': images,
            'categories': dataset['categories'],
            'annotations': annotations,
        }


def _is_finite(result: dict) -> bool:
    numbers = (*result['keypoints'], result['score'], *(result.get('bbox') or ()))
    return all(map(math.isfinite, numbers))


def _area(result: dict) -> float:
    """Return the size of a detection, px²: of its box, or of its keypoints' extent.

    That is what MMPose's evaluation does; COCO's takes the extent. It only tells which
    of the detections that fit nobody are ignored.
    """
    if result.get('bbox'):
        return result['bbox'][2] * result['bbox'][3]
    x, y = result['keypoints'][0::3], result['keypoints'][1::3]
    return (max(x) - min(x)) * (max(y) - min(y))


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float('nan')

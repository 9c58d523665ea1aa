"""The rules for one annotation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import ne

from sapiens_plugin.core.coco.annotations import HUGE, counts_as_labelled, has_area
from sapiens_plugin.core.coco.keypoints import WHOLEBODY_FIELDS

from . import kinds
from .kinds import Kind

_NUMBERS = frozenset({int, float, bool})
_ROUNDING = 2.0  # px that a box or a keypoint may be beyond the image

_LEARNS_NOTHING = frozenset(
    {
        kinds.ALL_INVISIBLE,
        kinds.NORMALISED,
        kinds.ALL_AT_ORIGIN,
        kinds.ALL_OUTSIDE_IMAGE,
        kinds.ALL_OFF_BOX,
    }
)


@dataclass(frozen=True)
class Person:
    """An annotation with keypoints, its numbers in order.

    Attributes:
        box: ``[x, y, width, height]``, px.
        keypoints: ``(x, y, flag)`` of each, px.
    """

    box: list[float]
    keypoints: list[tuple[float, float, float]]

    @property
    def labelled(self) -> list[tuple[float, float]]:
        """The keypoints that are labelled."""
        return [(x, y) for x, y, flag in self.keypoints if flag > 0]


@dataclass
class Verdict:
    """What was found out about one annotation.

    Attributes:
        kinds: What is wrong with it.
        person: Its numbers, where it has any that make sense.
        read: Whether training reads it.
        learned: Whether training also learns from it.
        fits_as_corners: Whether its box could be one of two corners.
        fits_only_as_corners: And whether it makes no sense otherwise.
    """

    kinds: list[Kind] = field(default_factory=list)
    person: Person | None = None
    read: bool = False
    learned: bool = False
    fits_as_corners: bool = False
    fits_only_as_corners: bool = False


def judge(annotation: dict, size: tuple[float, float], count: int) -> Verdict:
    """Look at one annotation of a known image.

    Args:
        annotation: The entry.
        size: Width and height of its image, px.
        count: How many keypoints it should have.
    """
    verdict = Verdict()
    fields = {'keypoints': count}
    if count == WHOLEBODY_FIELDS['keypoints'] and 'foot_kpts' in annotation:
        fields = WHOLEBODY_FIELDS
    problems = form_problems(annotation, fields)
    verdict.kinds += dict.fromkeys(kind for kind, _, _ in problems)
    if verdict.kinds:
        return verdict
    box, flat = annotation['bbox'], annotation['keypoints']
    keypoints = list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))
    person = verdict.person = Person(box, keypoints)
    counted = annotation.get('num_keypoints')
    if annotation.get('iscrowd', 0) not in (0, 1):
        verdict.kinds.append(kinds.CROWD_FLAG)
    if annotation.get('iscrowd'):
        if person.labelled:
            verdict.kinds.append(kinds.CROWD_LABELLED)
        return verdict
    verdict.read = counts_as_labelled(annotation, flat) and has_area(box, *size)
    if not person.labelled and not verdict.read:
        return verdict
    verdict.kinds += _flags(person, counted)
    if person.labelled:
        verdict.kinds += _geometry(person, *size)
        verdict.kinds += _area(annotation, person)
        verdict.fits_as_corners = _fits_as_corners(person, *size)
        verdict.fits_only_as_corners = _fits_only_as_corners(person, *size)
    verdict.learned = verdict.read and not _LEARNS_NOTHING.intersection(verdict.kinds)
    return verdict


def form_problems(
    annotation: dict, fields: Mapping[str, int]
) -> Iterator[tuple[Kind, str, int]]:
    """Yield what stops MMPose, or keeps the entry from being a person.

    Args:
        annotation: The entry.
        fields: The fields with keypoints, and how many each should have.

    Yields:
        What it is, in which field, and how many numbers that should have.
    """
    for name, count in fields.items():
        if name not in annotation:
            yield kinds.KEYPOINTS_MISSING, name, 3 * count
        elif not _is_numbers(annotation[name]) or not _triples(annotation[name]):
            yield kinds.KEYPOINTS_FORM, name, 3 * count
        elif not _is_finite(annotation[name]):
            yield kinds.NOT_FINITE, name, 3 * count
        elif len(annotation[name]) != 3 * count:
            yield kinds.KEYPOINTS_NUMBER, name, 3 * count
    if 'bbox' not in annotation:
        yield kinds.BOX_MISSING, 'bbox', 4
    elif not _is_numbers(annotation['bbox']) or len(annotation['bbox']) != 4:
        yield kinds.BOX_FORM, 'bbox', 4
    elif not _is_finite(annotation['bbox']):
        yield kinds.NOT_FINITE, 'bbox', 4


def _triples(numbers: list[float]) -> bool:
    return len(numbers) > 0 and len(numbers) % 3 == 0


def _flags(person: Person, counted: object) -> Iterator[Kind]:
    flags = [flag for _, _, flag in person.keypoints]
    labelled = len(person.labelled)
    if min(flags) < 0:
        yield kinds.FLAG_NEGATIVE
    if any(flag > 0 and flag not in (1, 2) for flag in flags):
        yield kinds.FLAG_UNKNOWN
    if not labelled:
        yield kinds.ALL_INVISIBLE
    elif counted == 0:
        yield kinds.NUM_KEYPOINTS_ZERO
    elif counted is not None and counted != labelled:
        yield kinds.NUM_KEYPOINTS


def _geometry(person: Person, width: float, height: float) -> Iterator[Kind]:
    x, y, box_width, box_height = person.box
    points = person.labelled
    if _is_normalised(person):
        yield kinds.NORMALISED
        return
    if box_width <= 0 or box_height <= 0:
        yield kinds.BOX_EMPTY
    elif not has_area(person.box, width, height):
        yield kinds.BOX_OUTSIDE
    elif (
        min(x, y) < -_ROUNDING
        or x + box_width > width + _ROUNDING
        or y + box_height > height + _ROUNDING
    ):
        yield kinds.BOX_BEYOND
    if set(points) == {(0, 0)}:
        yield kinds.ALL_AT_ORIGIN
        return
    if (0, 0) in points:
        yield kinds.AT_ORIGIN
    outside = sum(
        not (-_ROUNDING <= x <= width + _ROUNDING)
        or not (-_ROUNDING <= y <= height + _ROUNDING)
        for x, y in points
    )
    if outside:
        yield kinds.ALL_OUTSIDE_IMAGE if outside == len(points) else kinds.OUTSIDE_IMAGE
    elif box_width > 0 and box_height > 0:
        longer = max(box_width, box_height)
        away = [_distance(point, person.box) / longer for point in points]
        if min(away) > 1:
            yield kinds.ALL_OFF_BOX
        elif max(away) > 0.25:
            yield kinds.OFF_BOX


def area_problems(annotation: dict) -> Iterator[Kind]:
    """Yield what keeps an area from being a number that can be divided by."""
    area = annotation.get('area')
    if not _is_number(area):
        yield kinds.AREA_MISSING
    elif not _is_finite([area]):
        yield kinds.NOT_FINITE


def _area(annotation: dict, person: Person) -> Iterator[Kind]:
    problems = list(area_problems(annotation))
    yield from problems
    if problems:
        return
    area, box = annotation['area'], person.box[2] * person.box[3]
    if area <= 0:
        yield kinds.AREA_ZERO
    elif box > 0 and not _is_normalised(person) and not 0.01 <= area / box <= 1.5:
        yield kinds.AREA_ODD


def _is_normalised(person: Person) -> bool:
    """Whether box or keypoints are fractions of the image."""
    numbers = [number for point in person.labelled for number in point]
    return any(
        0 <= min(part) and max(part) <= 1 and any(0 < number < 1 for number in part)
        for part in (person.box, numbers)
    )


def _fits_as_corners(person: Person, width: float, height: float) -> bool:
    """Whether a box could be ``[x1, y1, x2, y2]``."""
    left, top, right, bottom = person.box
    return left < right <= width + _ROUNDING and top < bottom <= height + _ROUNDING


def _fits_only_as_corners(person: Person, width: float, height: float) -> bool:
    """Whether a box is wrong as it is, but as two corners holds the keypoints."""
    left, top, right, bottom = person.box
    if left + right <= width + _ROUNDING and top + bottom <= height + _ROUNDING:
        return False
    if not _fits_as_corners(person, width, height):
        return False
    box = [left, top, right - left, bottom - top]
    inside = sum(
        _distance(point, box) <= 0.1 * max(box[2:]) for point in person.labelled
    )
    return inside >= 0.9 * len(person.labelled)


def _distance(point: tuple[float, float], box: list[float]) -> float:
    """How far a point is outside a box, along the worse axis."""
    x, y, width, height = box
    return max(
        x - point[0], point[0] - (x + width), y - point[1], point[1] - (y + height), 0
    )


def _is_number(value: object) -> bool:
    return type(value) in _NUMBERS


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and _NUMBERS.issuperset(map(type, value))


def _is_finite(values: list[float]) -> bool:
    # Whole numbers of any length are compared well. NaN, which min and max may pass
    # over, is the one number that is not itself.
    return (
        not any(map(ne, values, values)) and -HUGE < min(values) and max(values) < HUGE
    )

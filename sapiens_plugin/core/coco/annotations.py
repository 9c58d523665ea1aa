"""What a COCO annotation file names, read in little memory."""

import json
from array import array
from pathlib import Path

from sapiens_plugin.core.utils.json_stream import read_lists
from sapiens_plugin.errors import InputError

HUGE = 1e30
"""No number of a file is as large; NaN and infinities are not below it either."""


def image_names(path: str | Path) -> list[str]:
    """Read the file names of all images, in the order of the file.

    Raises:
        InputError: The file cannot be read, or an image has no name.
    """
    return [
        _field(path, 'images', index, image, 'file_name', str)
        for _, index, image in read_lists(path, 'images')
    ]


def keypoint_images(path: str | Path) -> dict[str, int]:
    """Find the images that top-down keypoint training reads, and how often.

    These are the images with at least one annotation which MMPose's ``CocoDataset``
    keeps: not a crowd, with keypoints, and with a box that has an area inside the
    image. An annotation's images may come before it or after it in the file.

    Args:
        path: COCO keypoint file; identifiers are taken to be unique.

    Returns:
        For every such file name, the number of persons to train on.

    Raises:
        InputError: The file cannot be read, or an entry lacks what decides.
    """
    images: dict[int, tuple[str, float, float]] = {}  # name, width and height in px
    early: list[tuple[int, list[float]]] = []  # boxes that came before their image
    persons: dict[str, int] = {}

    def count(image_id: int, box: list[float]) -> None:
        name, width, height = images[image_id]
        if has_area(box, width, height):
            persons[name] = persons.get(name, 0) + 1

    for part, index, entry in read_lists(path, 'images', 'annotations'):
        if part == 'images':
            image_id = _field(path, part, index, entry, 'id', int)
            images[image_id] = (
                _field(path, part, index, entry, 'file_name', str),
                _field(path, part, index, entry, 'width', float),
                _field(path, part, index, entry, 'height', float),
            )
        elif 'bbox' in entry and 'keypoints' in entry:
            keypoints = _numbers(path, index, entry, 'keypoints')
            box = _numbers(path, index, entry, 'bbox')
            if len(box) != 4:
                raise _wrong(
                    path, part, index, entry, 'bbox', 'the 4 of [x, y, width, height]'
                )
            if not counts_as_labelled(entry, keypoints):
                continue
            image_id = _field(path, part, index, entry, 'image_id', int)
            if image_id in images:
                count(image_id, box)
            else:
                early.append((image_id, box))
    for image_id, box in early:
        if image_id in images:
            count(image_id, box)
    return persons


def counts_as_labelled(annotation: dict, keypoints: list[float]) -> bool:
    """Whether ``CocoDataset`` keeps an annotation, if its box has an area.

    It does not ask whether any of the keypoints ``[x, y, flag, …]`` is visible.
    """
    if annotation.get('iscrowd') or annotation.get('num_keypoints') == 0:
        return False
    return not all(value <= 0 for value in keypoints[0::3] + keypoints[1::3])


def has_area(box: list[float], width: float, height: float) -> bool:
    """Whether ``CocoDataset`` finds an area of the box inside the image.

    Args:
        box: ``[x, y, width, height]``, px.
        width: Of the image, px.
        height: Of the image, px.
    """
    x, y, box_width, box_height = box
    right, bottom = width - 1, height - 1
    # It compares in single precision.
    x1, y1, x2, y2 = array(
        'f',
        (
            min(max(x, 0), right),
            min(max(y, 0), bottom),
            min(max(x + box_width, 0), right),
            min(max(y + box_height, 0), bottom),
        ),
    )
    return not (x2 - x1 <= 0 or y2 - y1 <= 0)


def as_it_is(entry: dict, field: str) -> str:
    """Write a field for a reader, as JSON does and in ASCII.

    Such as ``'"width" is missing'``, ``'"bbox" has 3 numbers'`` or, where one is no
    finite number, ``'"bbox"[2] is NaN'``.
    """
    if field not in entry:
        return f'"{field}" is missing'
    value = entry[field]
    if not isinstance(value, list):
        return f'"{field}" is {_shown(value)}'
    for index, one in enumerate(value):
        if not isinstance(one, int | float) or not abs(one) < HUGE:
            return f'"{field}"[{index}] is {_shown(one)}'
    return f'"{field}" has {len(value)} numbers'


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return 'a list' if isinstance(value, list) else 'an object'
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _numbers(path: str | Path, index: int, annotation: dict, key: str) -> list[float]:
    value = annotation[key]
    if not isinstance(value, list) or not all(
        isinstance(number, int | float) for number in value
    ):
        raise _wrong(path, 'annotations', index, annotation, key, 'a list of numbers')
    return value


def _field(
    path: str | Path, part: str, index: int, entry: dict, key: str, kind: type
) -> object:
    value = entry.get(key)
    if isinstance(value, kind) or (kind is float and isinstance(value, int)):
        return value
    expected = {int: 'a whole number', float: 'a number', str: 'a text'}[kind]
    raise _wrong(path, part, index, entry, key, expected)


def _wrong(
    path: str | Path, part: str, index: int, entry: dict, key: str, expected: str
) -> InputError:
    number = f' (id {_shown(entry["id"])})' if 'id' in entry and key != 'id' else ''
    return InputError(
        f'{path}: {part}[{index}]{number}: {as_it_is(entry, key)}, and should be '
        f'{expected}. Correct it, or take the entry out.'
    )

"""What a COCO annotation file names, read in little memory."""

from array import array
from pathlib import Path

from sapiens_plugin.data.json_stream import read_lists
from sapiens_plugin.errors import InputError


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
                raise InputError(
                    f'{path}: the box of annotations[{index}] has {len(box)} numbers, '
                    'not the 4 of [x, y, width, height]. Correct it.'
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


def _numbers(path: str | Path, index: int, annotation: dict, key: str) -> list[float]:
    value = annotation[key]
    if not isinstance(value, list) or not all(
        isinstance(number, int | float) for number in value
    ):
        raise InputError(
            f'{path}: "{key}" of annotations[{index}] is not a list of numbers. '
            'Correct it, or take the annotation out.'
        )
    return value


def _field(
    path: str | Path, part: str, index: int, entry: dict, key: str, kind: type
) -> object:
    value = entry.get(key)
    if isinstance(value, kind) or (kind is float and isinstance(value, int)):
        return value
    expected = {int: 'a whole number', float: 'a number', str: 'a text'}[kind]
    raise InputError(
        f'{path}: "{key}" of {part}[{index}] is '
        + ('missing' if value is None else f'not {expected}')
        + '. Correct it, or take the entry out.'
    )

"""What in a keypoint file stops a job, or spoils its weights.

A part of the check that is cheap enough for every start: a job that is going to stop at
an entry stops before its first step and not days later. What a job merely does not
learn from is left to the whole check.
"""

from collections.abc import Iterator

from sapiens_plugin.data.dataset_check import kinds
from sapiens_plugin.data.dataset_check.images import read_image
from sapiens_plugin.data.dataset_check.kinds import Kind, Tally, shown
from sapiens_plugin.data.dataset_check.persons import area_problems, form_problems
from sapiens_plugin.errors import InputError

_LISTS = ('images', 'categories', 'annotations')


def check_entries(content: object, path: str) -> None:
    """Check what any reader of a COCO file relies on: lists, identifiers, sizes.

    Args:
        content: The file, parsed.
        path: Its name, for errors.

    Raises:
        InputError: A list is not there, or an entry stops the job.
    """
    for name in _LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) for entry in entries
        ):
            raise InputError(
                f'{path} has no list "{name}" of objects, so it is not an annotation '
                'file in COCO form. Is it the right file?'
            )
    _raise_first(_image_problems(content['images']), path)
    _raise_first(_category_problems(content['categories']), path)
    _raise_first(_annotation_problems(content['annotations']), path)


def check_person(annotation: dict, keypoints: int, path: str) -> None:
    """Check the numbers of an annotation that training reads.

    Args:
        annotation: The entry; it has an identifier, a box and keypoints.
        keypoints: How many the job learns.
        path: The file, for errors.

    Raises:
        InputError: The entry stops the job, or spoils the weights.
    """
    _raise_first(_person_problems(annotation, keypoints), path)


def check_evaluated(
    annotations: list[dict], keypoints: int | None, path: str, *, area: bool
) -> None:
    """Check the numbers of annotations that predictions are compared with.

    Args:
        annotations: The entries; they have identifiers.
        keypoints: How many each has; None for any number.
        path: The file, for errors.
        area: Whether areas are asked for.

    Raises:
        InputError: An entry stops the evaluation.
    """
    _raise_first(_evaluation_problems(annotations, keypoints, area=area), path)


def _raise_first(problems: Iterator[tuple[Kind, str]], path: str) -> None:
    for kind, place in problems:
        raise InputError(
            f'{path} would stop the job, or spoil it: {kind.name} ({place}). '
            f'{kind.meaning} `python3 tools/check_dataset.py {path} IMAGES` lists '
            'everything that is wrong.'
        )


def _image_problems(images: list[dict]) -> Iterator[tuple[Kind, str]]:
    known, tally = set(), Tally()
    for index, entry in enumerate(images):
        image = read_image(index, entry, tally)
        if image is None:
            yield kinds.IMAGE_ENTRY, f'images[{index}]'
        elif image.id in known:
            yield kinds.IMAGE_ID_TWICE, image.place
        else:
            known.add(image.id)


def _category_problems(categories: list[dict]) -> Iterator[tuple[Kind, str]]:
    for index, entry in enumerate(categories):
        if type(entry.get('id')) is not int:
            yield kinds.CATEGORY_ENTRY, f'categories[{index}]'


def _annotation_problems(annotations: list[dict]) -> Iterator[tuple[Kind, str]]:
    known = set()
    for index, entry in enumerate(annotations):
        number = entry.get('id')
        place = f'annotations[{index}], id {shown(number)}'
        if type(number) is not int:
            yield kinds.ANNOTATION_ID, place
        elif number in known:
            yield kinds.ANNOTATION_ID_TWICE, place
        elif not isinstance(entry.get('image_id'), int | float):
            yield kinds.IMAGE_UNKNOWN, place
        elif not isinstance(entry.get('category_id'), int | str):
            yield kinds.CATEGORY_UNKNOWN, place
        else:
            known.add(number)


def _person_problems(annotation: dict, keypoints: int) -> Iterator[tuple[Kind, str]]:
    place = f'annotation {shown(annotation["id"])}'
    for kind in form_problems(annotation, keypoints):
        yield kind, place
    if min(annotation['keypoints'][2::3]) < 0:
        yield kinds.FLAG_NEGATIVE, place
    if not isinstance(annotation.get('area', 0), int | float):
        yield kinds.AREA_MISSING, place


def _evaluation_problems(
    annotations: list[dict], keypoints: int | None, *, area: bool
) -> Iterator[tuple[Kind, str]]:
    for annotation in annotations:
        place = f'annotation {shown(annotation["id"])}'
        flat = annotation.get('keypoints')
        own = len(flat) // 3 if isinstance(flat, list) else 0
        for kind in form_problems(annotation, keypoints or own):
            yield kind, place
        for kind in area_problems(annotation) if area else ():
            yield kind, place
        if not isinstance(annotation.get('iscrowd', 0), int):
            yield kinds.CROWD_FLAG, place

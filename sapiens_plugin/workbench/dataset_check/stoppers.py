"""What in a keypoint file stops a job, or spoils its weights.

A part of the check that is cheap enough for every start: a job that is going to stop at
an entry stops before its first step and not days later. What a job merely does not
learn from is left to the whole check.
"""

from collections.abc import Iterator, Mapping

from sapiens_plugin.core.coco.annotations import as_it_is
from sapiens_plugin.errors import InputError

from . import kinds
from .images import wrong_field
from .kinds import Kind, shown
from .persons import area_problems, form_problems

_LISTS = ('images', 'categories', 'annotations')


def check_entries(content: object, path: str) -> None:
    """Check what any reader of a COCO file relies on: lists, identifiers, sizes.

    A file without annotations, as of COCO's test images, needs no more than "images".

    Args:
        content: The file, parsed.
        path: Its name, for errors.

    Raises:
        InputError: A list is not there, or an entry stops the job.
    """
    lists = content if isinstance(content, dict) else {}
    if 'annotations' not in lists:
        lists = {'annotations': [], 'categories': [], **lists}
    for name in _LISTS:
        entries = lists.get(name)
        if not isinstance(entries, list):
            raise InputError(
                f'{path} has no list "{name}", so it is not an annotation file in COCO '
                'form. Is it the right file?'
            )
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(
                    f'{path}: {name}[{index}] is no object with fields. Correct it, or '
                    'take it out.'
                )
    _raise_first(_image_problems(content['images']), path)
    _raise_first(_category_problems(lists['categories']), path)
    _raise_first(_annotation_problems(lists['annotations']), path)


def check_person(annotation: dict, fields: Mapping[str, int], path: str) -> None:
    """Check the numbers of an annotation that training reads.

    Args:
        annotation: The entry; it has an identifier.
        fields: The fields with keypoints, and how many the job learns of each.
        path: The file, for errors.

    Raises:
        InputError: The entry stops the job, or spoils the weights.
    """
    _raise_first(_person_problems(annotation, fields), path)


def check_evaluated(
    content: dict, fields: Mapping[str, int] | None, path: str, *, area: bool
) -> None:
    """Check the annotations that predictions are compared with.

    Args:
        content: A file that :func:`check_entries` has passed.
        fields: The fields with keypoints, and how many each has; None for
            "keypoints" of any number.
        path: The file, for errors.
        area: Whether areas are asked for.

    Raises:
        InputError: An entry stops the evaluation, or none counts in it.
    """
    annotations = content['annotations']
    _raise_first(_evaluation_problems(annotations, fields, area=area), path)
    known = {category['id'] for category in content['categories']}
    _raise_first(_uncounted_problems(annotations, known), path)
    flags = (one.get('keypoints', ())[2::3] for one in annotations)
    if annotations and not any(max(each, default=0) > 0 for each in flags):
        raise InputError(
            f'{path} would spoil the job: no annotation has a labelled keypoint, all '
            'visibility flags are 0, so AP would stay at -1. Is it the right file, or '
            'did an export leave the flags out?'
        )


def _raise_first(problems: Iterator[tuple[Kind, str]], path: str) -> None:
    for kind, place in problems:
        raise InputError(
            f'{path} would stop the job, or spoil it: {kind.name} ({place}). '
            f'{kind.meaning} `python3 tools/check_dataset.py {path} IMAGES` lists '
            'everything that is wrong.'
        )


def _image_problems(images: list[dict]) -> Iterator[tuple[Kind, str]]:
    known = set()
    for index, entry in enumerate(images):
        if field := wrong_field(entry):
            own = '' if field == 'id' else f', id {entry["id"]}'
            yield kinds.IMAGE_ENTRY, f'images[{index}]{own}: {as_it_is(entry, field)}'
        elif entry['id'] in known:
            yield kinds.IMAGE_ID_TWICE, f'images[{index}], id {entry["id"]}'
        else:
            known.add(entry['id'])


def _category_problems(categories: list[dict]) -> Iterator[tuple[Kind, str]]:
    for index, entry in enumerate(categories):
        if type(entry.get('id')) is not int:
            yield kinds.CATEGORY_ENTRY, f'categories[{index}]: {as_it_is(entry, "id")}'


def _annotation_problems(annotations: list[dict]) -> Iterator[tuple[Kind, str]]:
    known = set()
    for index, entry in enumerate(annotations):
        number = entry.get('id')
        place = f'annotations[{index}], id {shown(number)}'
        if type(number) is not int:
            yield kinds.ANNOTATION_ID, f'annotations[{index}]: {as_it_is(entry, "id")}'
        elif number in known:
            yield kinds.ANNOTATION_ID_TWICE, place
        elif not isinstance(entry.get('image_id'), int | float):
            yield kinds.IMAGE_UNKNOWN, f'{place}: {as_it_is(entry, "image_id")}'
        elif not isinstance(entry.get('category_id'), int | str):
            yield kinds.CATEGORY_UNKNOWN, f'{place}: {as_it_is(entry, "category_id")}'
        else:
            known.add(number)


def _person_problems(
    annotation: dict, fields: Mapping[str, int]
) -> Iterator[tuple[Kind, str]]:
    yield from _form_problems(annotation, fields)
    flags = annotation['keypoints'][2::3]
    least = min(flags)
    if least < 0:
        told = f'"keypoints"[{3 * flags.index(least) + 2}] is {least}'
        yield kinds.FLAG_NEGATIVE, _place(annotation, told)
    if not isinstance(annotation.get('area', 0), int | float):
        yield kinds.AREA_MISSING, _place(annotation, as_it_is(annotation, 'area'))


def _evaluation_problems(
    annotations: list[dict], fields: Mapping[str, int] | None, *, area: bool
) -> Iterator[tuple[Kind, str]]:
    for annotation in annotations:
        flat = annotation.get('keypoints')
        own = len(flat) // 3 if isinstance(flat, list) else 0
        yield from _form_problems(annotation, fields or {'keypoints': own})
        for kind in area_problems(annotation) if area else ():
            yield kind, _place(annotation, as_it_is(annotation, 'area'))
        if not isinstance(annotation.get('iscrowd', 0), int):
            yield kinds.CROWD_FLAG, _place(annotation, as_it_is(annotation, 'iscrowd'))


def _uncounted_problems(
    annotations: list[dict], known: set[int | str]
) -> Iterator[tuple[Kind, str]]:
    if annotations and known.isdisjoint(one['category_id'] for one in annotations):
        first = as_it_is(annotations[0], 'category_id')
        told = f'{first}, and no other is known either, so AP would stay at -1'
        yield kinds.CATEGORY_UNKNOWN, _place(annotations[0], told)


def _form_problems(
    annotation: dict, fields: Mapping[str, int]
) -> Iterator[tuple[Kind, str]]:
    for kind, field, length in form_problems(annotation, fields):
        told = as_it_is(annotation, field)
        if kind is kinds.KEYPOINTS_NUMBER:
            told += f', not the {length} of {length // 3} keypoints'
        yield kind, _place(annotation, told)


def _place(annotation: dict, told: str) -> str:
    number, image = annotation['id'], annotation['image_id']
    return f'annotation {number} of image {shown(image)}: {told}'

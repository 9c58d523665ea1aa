"""The sections of a report about a run's best validation."""

from collections.abc import Sequence
from pathlib import Path

from sapiens_plugin.core.utils.json_file import load_json
from sapiens_plugin.errors import InputError, UnreadableImage

from .charts import bar
from .kept_validation import FILE_NAME, KeptValidation
from .keypoint_ap import (
    COCO_SIZES,
    FAR,
    FINE_SIZES,
    Evaluation,
    Person,
    Precision,
)
from .markup import Markup, element, join
from .person_picture import person_picture
from .report_parts import missing, table

_BEST, _WORST = 6, 12  # persons shown; one learns more from the worst
_HEADINGS = (
    'Best and worst persons of the best validation',
    'AP by keypoint',
    'AP by size of the person',
)


def validation_sections(
    kept: KeptValidation | None, problem: str | None = None
) -> list[tuple[str, Markup]]:
    """Return headings and contents; without predictions, what is missing and why.

    Args:
        kept: The validation.
        problem: What makes its file unusable.
    """
    try:
        if kept is None:
            raise InputError(
                problem
                or f'No {FILE_NAME} lies in the work directory. ReportHook keeps the '
                "predictions of a run's best validation there; this run had no such "
                'validation, or its job no such hook.'
            )
        evaluation = Evaluation(
            _read_annotations(kept), kept.results, sigmas=kept.sigmas
        )
        contents = (
            _persons(kept, evaluation),
            _by_keypoint(kept, evaluation),
            _by_size(evaluation),
        )
    except InputError as error:
        why = missing(f'Nothing to show here. {error}')
        return [('Persons, keypoints and sizes', why)]
    return list(zip(_HEADINGS, contents, strict=True))


def _read_annotations(kept: KeptValidation) -> dict:
    dataset = load_json(kept.annotations)
    if not isinstance(dataset, dict):
        raise InputError(f'{kept.annotations} holds no COCO annotations.')
    for annotation in dataset.get('annotations', ()) if kept.mapping else ():
        if found := annotation.get('keypoints'):
            annotation['keypoints'] = [0] * (3 * len(kept.keypoints))
            for old, new in kept.mapping:
                part = found[3 * old : 3 * old + 3]
                annotation['keypoints'][3 * new : 3 * new + 3] = part
    return dataset


def _persons(kept: KeptValidation, evaluation: Evaluation) -> Markup:
    persons = sorted(evaluation.matched(), key=lambda person: person.oks)
    images = {image['id']: image for image in evaluation.images}
    worst = persons[:_WORST]
    # Nobody is shown twice.
    best = persons[: len(worst) - 1 : -1][:_BEST]

    def gallery(group: Sequence[Person]) -> Markup:
        figures = (_person(p, images[p.annotation['image_id']], kept) for p in group)
        return element('div', *figures, class_='people')

    return join(
        _dropped(evaluation.dropped),
        element(
            'p',
            f'Of {len(persons):,} persons, those whose predictions are nearest to and '
            'farthest from the truth, by object keypoint similarity (OKS, 0 to 1). '
            f'Validation after epoch {kept.epoch}. ',
            element('span', class_='key true'),
            ' annotated, ',
            element('span', class_='key predicted'),
            ' predicted, labelled keypoints only.',
        ),
        element('h3', 'Best'),
        gallery(best),
        element('h3', 'Worst'),
        gallery(worst),
    )


def _dropped(count: int) -> Markup | None:
    if not count:
        return None
    return missing(
        f'{count:,} of the predictions are not finite numbers (NaN or infinite) and '
        'are left out here and below: the model had diverged.'
    )


def _person(person: Person, image: dict, kept: KeptValidation) -> Markup:
    file_name = image['file_name']
    labelled = person.annotation['num_keypoints']
    description = (
        f'Person {person.annotation["id"]} in {file_name}, with {labelled} annotated '
        f'keypoints and those predicted. OKS {person.oks:.2f}.'
    )
    try:
        picture = person_picture(
            person,
            Path(kept.images, file_name),
            labelled_size=image['size'],
            names=kept.keypoints,
            skeleton=kept.skeleton,
            description=description,
        )
    except UnreadableImage as error:
        picture = missing(f'The image cannot be read: {error.path}')
    unmatched = ', no prediction left' if person.prediction is None else ''
    return element(
        'figure',
        picture,
        element(
            'figcaption',
            element('b', f'OKS {person.oks:.2f}'),
            element('span', f'{labelled} keypoints{unmatched}'),
            element('span', file_name),
        ),
    )


def _by_keypoint(kept: KeptValidation, evaluation: Evaluation) -> Markup:
    found = evaluation.by_keypoint()
    rows = [
        (name.replace('_', ' '), *_cells(precision), f'{sigma:.3f}')
        for name, precision, sigma in zip(
            kept.keypoints, found, kept.sigmas, strict=True
        )
    ]
    return join(
        element(
            'p',
            'COCO evaluated for persons who consist of one keypoint alone: AP is the '
            'mean over OKS thresholds .50 to .95, with the sigma of the keypoint and '
            'the area of the person, ranked by the score of the person. Persons in '
            'whom it is not labelled are ignored. These are no parts of the AP of '
            'whole '
            f'persons, which is {kept.metrics["coco/AP"]:.3f} here.',
        ),
        table(
            ('Keypoint', 'AP, 0 to 1', 'AP', 'AP .50', 'AR', 'Persons', 'Sigma'),
            rows,
            caption=f'AP by keypoint, after epoch {kept.epoch}',
            numbers=True,
        ),
    )


def _by_size(evaluation: Evaluation) -> Markup:
    names = [f'COCO {name}: ' for name in ('medium', 'large')]
    names += [''] * len(FINE_SIZES)
    sizes = (*COCO_SIZES, *FINE_SIZES)
    rows = [
        (name + _size_name(size), *_cells(precision))
        for name, size, precision in zip(
            names, sizes, evaluation.by_size(sizes), strict=True
        )
        if precision.persons
    ]
    return table(
        ('Size', 'AP, 0 to 1', 'AP', 'AP .50', 'AR', 'Persons'),
        rows,
        caption='AP by the square root of the area of a person in the photograph, px: '
        'the two sizes of COCO, then a finer split',
        numbers=True,
    )


def _cells(precision: Precision) -> tuple[object, ...]:
    if not precision.persons:
        return ('', '–', '–', '–', '0')
    return (
        bar(precision.ap),
        f'{precision.ap:.3f}',
        f'{precision.ap50:.3f}',
        f'{precision.ar:.3f}',
        f'{precision.persons:,}',
    )


def _size_name(size: tuple[float, float]) -> str:
    low, high = size
    if low == 0:
        return f'below {high:g} px'
    return f'from {low:g} px' if high >= FAR else f'{low}–{high} px'

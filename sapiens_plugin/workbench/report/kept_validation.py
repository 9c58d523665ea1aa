"""The predictions of a run's best validation, kept for its report."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sapiens_plugin.core.utils.whole_file import write_whole
from sapiens_plugin.errors import InputError

FILE_NAME = 'best_validation.json'


@dataclass(frozen=True)
class KeptValidation:
    """A validation with what it takes to evaluate it once more.

    Attributes:
        epoch: How many epochs were trained before it.
        seconds: How long it took.
        metrics: Its numbers, such as ``coco/AP``.
        annotations: The COCO keypoint file that it compared with.
        images: The folder that the file's names are relative to.
        keypoints: Their names.
        sigmas: How far apart people place each of them, as COCO's OKS takes it.
        skeleton: Pairs of keypoint indices to join when they are drawn.
        results: The predictions in COCO's results form: ``image_id``,
            ``category_id``, ``keypoints`` ``[x, y, score, …]`` in px, ``score`` and,
            of a detection, its ``bbox``.
        mapping: Of ``CocoMetric(gt_converter=...)``: pairs of a keypoint's index in the
            annotations and here; None where they are the same.
    """

    epoch: int
    seconds: float
    metrics: dict[str, float]
    annotations: str
    images: str
    keypoints: list[str]
    sigmas: list[float]
    skeleton: list[list[int]]
    results: list[dict]
    mapping: list[list[int]] | None = None

    def write(self, work_dir: Path) -> None:
        """Write it into a work directory, whole, in the place of an earlier one.

        Raises:
            OSError: The disk is full, say.
        """
        write_whole(Path(work_dir, FILE_NAME), json.dumps(asdict(self)))


def read_kept_validation(work_dir: Path) -> KeptValidation | None:
    """Read what was kept in a work directory; None if nothing was.

    Raises:
        InputError: The file is there and is something else, or cannot be read.
    """
    path = Path(work_dir, FILE_NAME)
    if not path.is_file():
        return None
    try:
        kept = KeptValidation(**json.loads(path.read_text(encoding='utf-8')))
        _check_kinds(kept)
        count = len(kept.keypoints)
        whole = (
            len(kept.sigmas) == count
            and all(0 <= index < count for pair in kept.skeleton for index in pair)
            and all(len(result['keypoints']) == 3 * count for result in kept.results)
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f'{path} does not hold a validation ({error!r}). Delete it; the next '
            'validation of the run writes it anew.'
        ) from error
    if not whole:
        raise InputError(
            f'{path} has predictions with other keypoints than it names. Delete it; '
            'the next validation of the run writes it anew.'
        )
    return kept


def _check_kinds(kept: KeptValidation) -> None:
    """Raise KeyError or TypeError if something is missing or of another kind."""
    numbers = [kept.epoch, kept.seconds, kept.metrics['coco/AP'], *kept.sigmas]
    numbers += [index for a, b in kept.skeleton for index in (a, b)]
    texts = [kept.annotations, kept.images, *kept.keypoints]
    numbers += [index for pair in kept.mapping or () for index in pair]
    for result in kept.results:
        # What keys a dictionary below; other data sets have texts.
        if not isinstance(result['image_id'], int | str):
            raise TypeError(f'image_id={result["image_id"]!r}')
        numbers += [result['score'], *result['keypoints']]
        if result.get('bbox'):
            _, _, width, height = result['bbox']
            numbers += [width, height]
    for values, kind, name in (
        (numbers, int | float, 'number'),
        (texts, str, 'text'),
    ):
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong:
            raise TypeError(f'{wrong[0]!r} is no {name}')

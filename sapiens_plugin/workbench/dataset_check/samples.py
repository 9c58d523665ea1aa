"""A few pictures of a data set with their labels drawn in."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sapiens_plugin.core.images.decode import decode, read_file
from sapiens_plugin.core.utils.whole_file import whole_file
from sapiens_plugin.errors import UnreadableImage

_SIDE = 1280  # px, of a picture's longer side
_CELL = (560, 420)  # px, width and height of a picture in the overview
_MARGIN = 0.05  # around the image, for what lies outside of it
_ENLARGED = 3.0  # at most
_GROUND = (40, 40, 40)  # all colours in BGR
_INK, _SHADE = (235, 235, 235), (20, 20, 20)
_LEFT, _RIGHT, _MIDDLE = (60, 150, 255), (255, 190, 60), (110, 220, 110)
_WRONG = (60, 60, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BAR = 26  # px, the height of a line of text
# Thin coloured lines need their colours at full resolution.
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 92),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
_FAR = 20_000  # px; OpenCV draws nothing right beyond


@dataclass(frozen=True)
class SamplePerson:
    """A person to draw.

    Attributes:
        place: The annotation's identifier.
        box: ``[x, y, width, height]``, px.
        keypoints: ``(x, y, flag)`` of each, px.
        wrong: What was found to be wrong with it.
    """

    place: str
    box: list[float]
    keypoints: list[tuple[float, float, float]]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A picture to draw.

    Attributes:
        title: What to write below it.
        path: Its file.
        size: Width and height as its entry says, px.
        persons: Who is in it.
        names: Of the keypoints; those of the left and the right differ in colour.
        skeleton: Pairs of keypoints to join, counted from 0.
    """

    title: str
    path: Path
    size: tuple[float, float]
    persons: tuple[SamplePerson, ...]
    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]


def draw_samples(samples: tuple[Sample, ...], folder: Path) -> Path | None:
    """Draw ``sample_1.jpg`` and so on, and all of them in ``samples.jpg``.

    Pictures of an earlier call are replaced.

    Args:
        samples: What to draw.
        folder: Where to; made where missing.

    Returns:
        The overview; None where no sample could be read.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob('sample_[0-9]*.jpg'), folder / 'samples.jpg']:
        old.unlink(missing_ok=True)
    cells = []
    for sample in samples:
        try:
            image = decode(
                read_file(sample.path), sample.path, labelled_size=sample.size
            )
        except UnreadableImage:
            continue
        cells.append(_draw(image, sample, *_CELL))
        height, width = image.shape[:2]
        scale = min(_SIDE / max(height, width), _ENLARGED)
        picture = _draw(image, sample, round(width * scale), round(height * scale))
        _write(folder / f'sample_{len(cells)}.jpg', picture)
    if not cells:
        return None
    _write(folder / 'samples.jpg', _overview(cells))
    return folder / 'samples.jpg'


def _write(path: Path, picture: np.ndarray) -> None:
    _, content = cv2.imencode('.jpg', picture, _JPEG)
    with whole_file(path) as file:
        file.write(content.tobytes())


def _draw(image: np.ndarray, sample: Sample, width: int, height: int) -> np.ndarray:
    """Draw a picture and its labels into so many pixels, and its title below."""
    canvas = np.full((height + _BAR, width, 3), _GROUND, np.uint8)
    rows, columns = image.shape[:2]
    scale = (1 - 2 * _MARGIN) * min(width / columns, height / rows, _ENLARGED * 2)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    picture = canvas[:height]
    for person in sample.persons:
        _draw_person(picture, person, sample, scale, (left, top))
    _text(canvas, sample.title, (max(left, 4), top + size[1] + 20), _INK)
    return canvas


def _draw_person(
    picture: np.ndarray,
    person: SamplePerson,
    sample: Sample,
    scale: float,
    origin: tuple[int, int],
) -> None:
    def place(x: float, y: float) -> tuple[int, int]:
        return tuple(
            round(min(max(start + scale * value, -_FAR), _FAR))
            for start, value in zip(origin, (x, y), strict=True)
        )

    x, y, width, height = person.box
    colour = _WRONG if person.wrong else _INK
    # Lines are as thick as the person is large, so that small ones stay visible.
    thick = int(np.clip(scale * max(width, height) / 160, 1, 4))
    corners = place(x, y), place(x + width, y + height)
    cv2.rectangle(picture, *corners, _SHADE, 3, cv2.LINE_AA)
    cv2.rectangle(picture, *corners, colour, 1, cv2.LINE_AA)
    points = [place(x, y) for x, y, _ in person.keypoints]
    flags = [flag for _, _, flag in person.keypoints]
    for start, end in sample.skeleton:
        if max(start, end) < len(flags) and flags[start] > 0 and flags[end] > 0:
            side = _colour(sample.names[start], sample.names[end])
            cv2.line(
                picture, points[start], points[end], _SHADE, thick + 2, cv2.LINE_AA
            )
            cv2.line(picture, points[start], points[end], side, thick, cv2.LINE_AA)
    for index, (point, flag) in enumerate(zip(points, flags, strict=True)):
        if flag > 0:
            name = sample.names[index] if index < len(sample.names) else ''
            _dot(picture, point, _colour(name), thick + 2, hidden=flag < 2)
    labelled = sum(flag > 0 for flag in flags)
    label = ', '.join([f'{person.place}: {labelled}', *person.wrong[:1]])
    _text(picture, label, (corners[0][0] + 2, max(corners[0][1] - 4, 12)), colour)


def _dot(
    picture: np.ndarray,
    point: tuple[int, int],
    colour: tuple[int, int, int],
    radius: int,
    *,
    hidden: bool,
) -> None:
    cv2.circle(picture, point, radius + 1, _SHADE, -1, cv2.LINE_AA)
    cv2.circle(picture, point, radius, colour, 1 if hidden else -1, cv2.LINE_AA)


def _colour(*names: str) -> tuple[int, int, int]:
    """The colour of the side that all names are of."""
    if all(name.lower().startswith('left') for name in names):
        return _LEFT
    if all(name.lower().startswith('right') for name in names):
        return _RIGHT
    return _MIDDLE


def _text(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    cv2.putText(picture, text, place, _FONT, 0.45, _SHADE, 3, cv2.LINE_AA)
    cv2.putText(picture, text, place, _FONT, 0.45, colour, 1, cv2.LINE_AA)


def _overview(cells: list[np.ndarray]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(cells)))
    cells = cells + [np.full_like(cells[0], _GROUND)] * (-len(cells) % columns)
    rows = [
        np.hstack(cells[start : start + columns])
        for start in range(0, len(cells), columns)
    ]
    return np.vstack([*rows, _legend(rows[0].shape[1])])


def _legend(width: int) -> np.ndarray:
    legend = np.full((_BAR + 10, width, 3), _GROUND, np.uint8)
    x = 12
    for words, colour, hidden in (
        ('left', _LEFT, False),
        ('right', _RIGHT, False),
        ('middle', _MIDDLE, False),
        ('hidden', _MIDDLE, True),
    ):
        _dot(legend, (x, 17), colour, 5, hidden=hidden)
        _text(legend, words, (x + 12, 22), _INK)
        x += 90
    _text(legend, 'id: keypoints labelled', (x, 22), _INK)
    return legend

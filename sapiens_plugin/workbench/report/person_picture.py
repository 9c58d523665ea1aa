"""A person cut out of its photograph, with true and predicted keypoints over it."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sapiens_plugin.core.images.decode import decode, read_file

from .keypoint_ap import Person
from .markup import Markup, element

_MARGIN = 0.15  # of the box's longer side
_LONGEST = 340  # px of a thumbnail; a screen shows it at some 200
_QUALITY = 78


def person_picture(
    person: Person,
    image_path: Path,
    *,
    labelled_size: tuple[int, int] | None = None,
    names: Sequence[str],
    skeleton: Sequence[Sequence[int]],
    description: str,
) -> Markup:
    """Return the crop as SVG: a JPEG with the keypoints as lines and dots over it.

    Args:
        person: Whom to show.
        image_path: The photograph.
        labelled_size: Its width and height as the annotations have it, px.
        names: Of the keypoints.
        skeleton: Pairs of keypoint indices to join.
        description: For those who do not see the picture.

    Raises:
        UnreadableImage: The photograph is missing or does not decode.
    """
    pixels = decode(read_file(image_path), image_path, labelled_size=labelled_size)
    image = Image.fromarray(pixels[..., ::-1])
    left, top, right, bottom = _crop(person, image.size)
    crop = image.crop((left, top, right, bottom))
    crop.thumbnail((_LONGEST, _LONGEST))
    file = io.BytesIO()
    crop.save(file, 'JPEG', quality=_QUALITY, optimize=True)
    data = base64.b64encode(file.getvalue()).decode('ascii')

    width, height = right - left, bottom - top
    truth = np.asarray(person.annotation['keypoints'], float).reshape(-1, 3)
    labelled = truth[:, 2] > 0
    unit = max(width, height) / 100
    layers = [
        _figure(truth[:, :2], labelled, skeleton, names, 'true', unit),
    ]
    if person.prediction is not None:
        predicted = person.prediction[:, :2]
        # What is not labelled may be anywhere, and nobody can tell.
        layers.append(_figure(predicted, labelled, skeleton, names, 'predicted', unit))
    return element(
        'svg',
        element('title', description),
        element(
            'image',
            href=f'data:image/jpeg;base64,{data}',
            x=left,
            y=top,
            width=width,
            height=height,
            preserveAspectRatio='none',
        ),
        *layers,
        viewBox=f'{left} {top} {width} {height}',
        role='img',
        class_='person',
    )


def _crop(person: Person, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what to show, px, inside the image."""
    x, y, width, height = person.annotation['bbox']
    truth = np.asarray(person.annotation['keypoints'], float).reshape(-1, 3)
    places = truth[truth[:, 2] > 0, :2]
    margin = _MARGIN * max(width, height)
    left = min(x, places[:, 0].min()) - margin
    top = min(y, places[:, 1].min()) - margin
    right = max(x + width, places[:, 0].max()) + margin
    bottom = max(y + height, places[:, 1].max()) + margin
    left = min(max(0, math.floor(left)), size[0] - 1)
    top = min(max(0, math.floor(top)), size[1] - 1)
    right = max(left + 1, min(size[0], math.ceil(right)))
    bottom = max(top + 1, min(size[1], math.ceil(bottom)))
    return left, top, right, bottom


def _figure(
    places: np.ndarray,
    shown: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    names: Sequence[str],
    kind: str,
    unit: float,
) -> Markup:
    lines = [
        ' '.join(
            f'{command}{places[index, 0]:.1f} {places[index, 1]:.1f}'
            for command, index in zip('ML', pair, strict=True)
        )
        for pair in skeleton
        if shown[pair[0]] and shown[pair[1]]
    ]
    dots = [
        element(
            'circle',
            element('title', f'{names[index]}, {kind}'),
            cx=f'{places[index, 0]:.1f}',
            cy=f'{places[index, 1]:.1f}',
            r=f'{1.5 * unit:.2f}',
        )
        for index in np.flatnonzero(shown)
    ]
    path = ' '.join(lines)
    return element(
        'g',
        element('path', d=path, class_='halo', stroke_width=f'{1.6 * unit:.2f}'),
        element('path', d=path, stroke_width=f'{0.8 * unit:.2f}'),
        *dots,
        class_=kind,
        stroke_width=f'{0.5 * unit:.2f}',
    )

"""Things around a person: a shadow, a seat, and what stands in the way."""

import numpy as np

from .canvas import Canvas, Colour, bgr, darker, ellipse, lighter
from .person import Person

_BLOCKS = ('#b98a5e', '#9a7657', '#a3a3a8', '#c2a878')
_LEAVES = ('#6fa35e', '#4f8f5d', '#8aa84f')
_BALLOONS = ('#e0574f', '#f0b13f', '#5a9bd4', '#b06ac0')

_FOREGROUND = 255  # owner of the pixels of what stands in front of people


def paint_ground_contact(
    canvas: Canvas, person: Person, rng: np.random.Generator
) -> None:
    """A shadow under the feet, and a block to sit on where it is needed."""
    unit = person.stature
    toes = person.toes
    shade = (toes[:, 0].mean(), toes[:, 1].max())
    radii = np.array([0.09 * unit + np.ptp(toes[:, 0]) / 2, 0.028 * unit])
    canvas.fill([ellipse(shade, radii)], [darker(canvas.colour_at(shade), 0.16)])
    if person.body.seated:
        left, top = person.hips + np.array([-0.13, 0.02]) * unit
        right, bottom = left + 0.26 * unit, toes[:, 1].max() - 0.03 * unit
        colour = _one_of(rng, _BLOCKS)
        block = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        canvas.fill([block], [colour], ink=0.006 * unit)


def paint_thing_in_front(
    canvas: Canvas, person: Person, rng: np.random.Generator
) -> None:
    """Something that hides a part of the person below the neck."""
    thing = _THINGS[rng.integers(len(_THINGS))]
    unit = person.stature
    size = rng.uniform(0.07, 0.13) * unit
    joint = ('elbow', 'wrist', 'hip') if thing is _balloon else ('knee', 'ankle')
    pair = person.body.pair(joint[rng.integers(len(joint))])
    at = person.on_picture(pair[rng.integers(2)]) + rng.normal(0, 0.02, 2) * unit
    if thing is not _balloon:
        at[1] = person.toes[:, 1].max() + 0.02 * unit - size
    thing(canvas, rng, at, size)


def _one_of(rng: np.random.Generator, colours: tuple[str, ...]) -> Colour:
    return bgr(colours[rng.integers(len(colours))])


def _bush(
    canvas: Canvas, rng: np.random.Generator, at: np.ndarray, size: float
) -> None:
    leaves = _one_of(rng, _LEAVES)
    puffs = [
        ellipse(at + np.array([dx, dy]) * size, r * size)
        for dx, dy, r in (
            (-0.8, 0.2, 0.6),
            (0.8, 0.2, 0.6),
            (0, -0.2, 0.8),
            (0, 0.3, 0.7),
        )
    ]
    canvas.fill(puffs, [leaves] * len(puffs), owner=_FOREGROUND, ink=0.06 * size)


def _crate(
    canvas: Canvas, rng: np.random.Generator, at: np.ndarray, size: float
) -> None:
    wood = _one_of(rng, _BLOCKS)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size
    inner = corners * 0.72
    canvas.fill(
        [at + corners, at + inner],
        [wood, darker(wood, 0.15)],
        owner=_FOREGROUND,
        ink=0.06 * size,
    )


def _balloon(
    canvas: Canvas, rng: np.random.Generator, at: np.ndarray, size: float
) -> None:
    colour = _one_of(rng, _BALLOONS)
    string = at + np.array([(0, 1.1), (0.15, 2.2), (-0.1, 3.2)]) * size
    canvas.stroke(string, darker(colour, 0.3), 0.08 * size, owner=_FOREGROUND)
    body = ellipse(at, (0.9 * size, 1.1 * size))
    canvas.fill([body], [colour], owner=_FOREGROUND, ink=0.06 * size)
    gleam = ellipse(at - np.array([0.3, 0.45]) * size, (0.16 * size, 0.24 * size))
    canvas.fill([gleam], [lighter(colour, 0.6)], owner=_FOREGROUND)


_THINGS = (_bush, _crate, _balloon)

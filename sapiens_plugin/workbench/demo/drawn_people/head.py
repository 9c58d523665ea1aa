"""Draws the head: a sphere with hair, and a face where it is turned to us."""

import numpy as np

from .brush import Brush, Part
from .canvas import Colour, bgr, blend, darker, hull
from .pose import EYE, HEAD_RADIUS, LEFT, NOSE, RIGHT, Direction, on_head

_WHITE, _PUPIL = bgr('#ffffff'), bgr('#201810')
_BLUSH, _NOSE, _LIPS = bgr('#e8695a'), bgr('#b8452c'), bgr('#7c2f2a')

# Middles and angles, in degrees, of round patches on the sphere.
_FACE = (0, -0.42, 0.9), 63
_CAP = (0, 1, -0.1), 72


def draw_hanging_hair(brush: Brush) -> None:
    """Draw what hair there is behind the head."""
    up, forward = brush.body.head_frame[1:] * HEAD_RADIUS
    middle = brush.body.head
    if brush.look.hair_style == 'bun':
        hair = brush.disc(middle + 0.95 * up - 0.75 * forward, 0.038)
    elif brush.look.hair_style == 'long':
        crown, tips = middle - 0.45 * forward, middle - 0.75 * forward - 1.35 * up
        hair = hull(brush.disc(crown, HEAD_RADIUS), brush.disc(tips, 0.06))
    else:
        return
    brush.paint(Part.HEAD, (hair, brush.look.hair))


def draw_head(brush: Brush) -> None:
    """Draw the head, without hair that hangs behind it."""
    body, look = brush.body, brush.look
    ears = body.pair('ear')
    far, near = (LEFT, RIGHT) if ears[LEFT][2] < ears[RIGHT][2] else (RIGHT, LEFT)
    _draw_ear(brush, ears[far])
    shapes = [brush.disc(body.head, HEAD_RADIUS)]
    if look.hair_style == 'curly':
        shapes += _curls(brush)
    brush.paint(Part.HEAD, *((shape, look.hair) for shape in shapes))
    _tint_patch(brush, *_FACE, look.skin)
    if look.hair_style == 'cap':
        _tint_patch(brush, *_CAP, look.accent)
        _draw_brim(brush)
    _draw_ear(brush, ears[near])
    _draw_face(brush)


def _draw_ear(brush: Brush, ear: np.ndarray) -> None:
    brush.paint(Part.HEAD, (brush.disc(ear, 0.018), darker(brush.look.skin, 0.06)))


def _curls(brush: Brush) -> list[np.ndarray]:
    left, up, _ = brush.body.head_frame * HEAD_RADIUS
    around = np.radians(np.linspace(-100, 100, 9))
    return [
        brush.disc(brush.body.head + np.cos(a) * up + np.sin(a) * left, 0.03)
        for a in around
    ]


def _tint_patch(
    brush: Brush, direction: Direction, degrees: float, colour: Colour
) -> None:
    """Colour a round patch of the sphere, as far as it is turned to us."""
    centre = on_head(brush.body.head_frame, direction) / HEAD_RADIUS
    rim = _circle_on_sphere(centre, np.radians(degrees))
    seen = rim[:, 2] >= 0
    if not seen.any() and centre[2] < 0:
        return
    if seen.any() and not seen.all():
        # Where the patch runs over the horizon, it ends at the outline of the head.
        start = np.flatnonzero(seen & ~np.roll(seen, 1))[0]
        rim = np.roll(rim, -start, axis=0)[: seen.sum()]
        heading = np.arctan2(centre[1], centre[0])
        first, last = np.arctan2(rim[[0, -1], 1], rim[[0, -1], 0]) - heading
        first, last = ((a + np.pi) % (2 * np.pi) - np.pi for a in (first, last))
        arc = heading + np.linspace(last, first, 16)
        horizon = np.column_stack([np.cos(arc), np.sin(arc), np.zeros_like(arc)])
        rim = np.concatenate([rim, horizon])
    outline = brush.person.on_picture(brush.body.head + HEAD_RADIUS * rim)
    brush.tint(Part.HEAD, (outline, colour))


def _circle_on_sphere(centre: np.ndarray, angle: float) -> np.ndarray:
    """Points (40, 3) of the unit sphere at an angle, in radians, from one (3,)."""
    # Any direction not along the centre will do to start from.
    apart = np.eye(3)[np.abs(centre).argmin()]
    across = np.cross(centre, apart)
    across /= np.linalg.norm(across)
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)[:, None]
    around = np.cos(turn) * across + np.sin(turn) * np.cross(centre, across)
    return np.cos(angle) * centre + np.sin(angle) * around


def _draw_brim(brush: Brush) -> None:
    left, up, forward = brush.body.head_frame * HEAD_RADIUS
    if forward[2] < -0.2 * HEAD_RADIUS:
        return
    root = brush.body.head + 0.75 * forward + 0.42 * up
    tip = root + 0.55 * forward
    outline = hull(
        *(brush.disc(root + share * left, 0.011) for share in (-0.6, 0.6)),
        *(brush.disc(tip + share * left, 0.014) for share in (-0.36, 0.36)),
    )
    brush.paint(Part.HEAD, (outline, darker(brush.look.accent, 0.15)))


def _draw_face(brush: Brush) -> None:
    body, skin = brush.body, brush.look.skin

    def spot(left: float, up: float, forward: float) -> np.ndarray:
        return body.head + on_head(body.head_frame, (left, up, forward))

    def is_seen(point: np.ndarray) -> bool:
        return point[2] - body.head[2] > 0.12 * HEAD_RADIUS

    def features():
        for mirror in (1, -1):
            yield spot(mirror * 0.68, -0.42, 0.75), [(0.015, blend(skin, _BLUSH, 0.25))]
            eye = [((0.02, 0.024), _WHITE), (0.0125, _PUPIL)]
            yield spot(mirror * EYE[0], *EYE[1:]), eye
        yield spot(*NOSE), [(0.016, blend(skin, _NOSE, 0.55))]

    for place, discs in features():
        if is_seen(place):
            shapes = [(brush.disc(place, radius), colour) for radius, colour in discs]
            brush.tint(Part.HEAD, *shapes)
    along = np.linspace(-1, 1, 5)
    smile = [spot(0.3 * s, 0.16 * s**2 - 0.68, 0.8) for s in along]
    smile = [point for point in smile if is_seen(point)]
    if len(smile) > 1:
        brush.line(Part.HEAD, np.array(smile), _LIPS, 0.007)

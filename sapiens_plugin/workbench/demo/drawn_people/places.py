"""Backgrounds in soft colours: each function paints a place over the whole canvas.

They return the y of the horizon, px; whoever stands in the picture stands below it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .canvas import Canvas, Colour, bgr, blend, capsule, darker, ellipse, lighter


def paint_place(canvas: Canvas, rng: np.random.Generator) -> float:
    """Paint a random place and return the y of its horizon, px."""
    return _PLACES[rng.integers(len(_PLACES))](canvas, rng)


def _pick(rng: np.random.Generator, *hex_colours: str) -> Colour:
    """One of the colours, a little lighter or darker."""
    colour = bgr(hex_colours[rng.integers(len(hex_colours))])
    shift = rng.uniform(-0.1, 0.1)
    return lighter(colour, shift) if shift > 0 else darker(colour, -shift)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _horizon(canvas: Canvas, rng: np.random.Generator) -> float:
    return rng.uniform(0.45, 0.62) * canvas.height


def _ground(canvas: Canvas, horizon: float, colour: Colour) -> None:
    canvas.fill([_box(-1, horizon, canvas.width, canvas.height)], [colour])


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    top = _pick(rng, '#86b7da', '#9cc4de', '#a9abd6', '#dfae99', '#8dc6c3')
    canvas.gradient(top, lighter(top, 0.45))
    if rng.random() < 0.5:
        at = rng.uniform((0.05, 0.05), (0.95, 0.25)) * (canvas.width, canvas.height)
        canvas.fill(
            [ellipse(at, rng.uniform(9, 18))], [_pick(rng, '#fdf0b8', '#fbe39a')]
        )
    for _ in range(rng.integers(0, 4)):
        at = rng.uniform((0, 0.04), (1, 0.32)) * (canvas.width, canvas.height)
        size = rng.uniform(7, 15)
        puffs = [
            ellipse(at + np.array([dx, dy]) * size, np.array([rx, ry]) * size)
            for dx, dy, rx, ry in (
                (-1.3, 0.25, 1, 0.6),
                (0, 0, 1.3, 0.9),
                (1.3, 0.3, 1, 0.55),
            )
        ]
        canvas.fill(puffs, [lighter(top, 0.85)] * 3)


def _ridge(
    canvas: Canvas, rng: np.random.Generator, base: float, height: float, colour: Colour
) -> None:
    """A row of rounded hills from ``base`` px upwards, down to the bottom."""
    x = np.linspace(-2, canvas.width + 2, 40)
    waves = [
        rng.uniform(0.3, 1)
        * np.sin(x / canvas.width * rng.uniform(3, 9) + rng.uniform(0, 6))
        for _ in range(2)
    ]
    y = base - height * (0.5 + 0.25 * np.sum(waves, axis=0))
    below = [(canvas.width + 2, canvas.height + 2), (-2, canvas.height + 2)]
    canvas.fill([np.concatenate([np.column_stack([x, y]), below])], [colour])


def _tree(canvas: Canvas, rng: np.random.Generator, foot: Sequence[float], size: float):
    x, y = foot
    leaves = _pick(rng, '#8fbf87', '#a5c98a', '#7fae93', '#c9c07e', '#d9a77e')
    trunk = _box(x - 0.06 * size, y - 0.5 * size, x + 0.06 * size, y)
    canvas.fill([trunk], [_pick(rng, '#a98467', '#8f7560')])
    if rng.random() < 0.4:
        crown = [
            np.array(
                [
                    (x - w * size, y - b * size),
                    (x + w * size, y - b * size),
                    (x, y - t * size),
                ]
            )
            for w, b, t in ((0.36, 0.25, 0.75), (0.28, 0.52, 1.0))
        ]
    else:
        crown = [
            ellipse((x + dx * size, y - dy * size), r * size)
            for dx, dy, r in ((-0.2, 0.6, 0.24), (0.2, 0.6, 0.24), (0, 0.8, 0.28))
        ]
    canvas.fill(crown, [leaves] * len(crown))


def _meadow(canvas: Canvas, rng: np.random.Generator) -> float:
    horizon = _horizon(canvas, rng)
    _sky(canvas, rng)
    far = _pick(rng, '#b9d3c8', '#c3d6b0', '#b8c8d8')
    _ridge(canvas, rng, horizon, rng.uniform(15, 60), far)
    grass = _pick(rng, '#a3c27c', '#b1c683', '#8fb985', '#c6bd84')
    _ground(canvas, horizon, grass)
    for _ in range(rng.integers(0, 4)):
        foot = rng.uniform((0, horizon + 2), (canvas.width, horizon + 22))
        _tree(canvas, rng, foot, rng.uniform(40, 95))
    for _ in range(rng.integers(0, 14)):
        at = rng.uniform((0, horizon + 12), (canvas.width, canvas.height))
        petal = _pick(rng, '#f4b6c2', '#fff6d6', '#f2d16b', '#c9b6e4')
        canvas.fill([ellipse(at, rng.uniform(1.2, 2.6))], [petal])
    return horizon


def _snow(canvas: Canvas, rng: np.random.Generator) -> float:
    horizon = _horizon(canvas, rng)
    _sky(canvas, rng)
    _ridge(canvas, rng, horizon, rng.uniform(30, 80), _pick(rng, '#c5d3e3', '#d5d3e6'))
    snow = _pick(rng, '#c3d2e0', '#cdd8de')
    _ground(canvas, horizon, snow)
    for _ in range(rng.integers(1, 5)):
        foot = rng.uniform((0, horizon + 2), (canvas.width, horizon + 18))
        _tree(canvas, rng, foot, rng.uniform(40, 90))
    flakes = rng.uniform((0, 0), (canvas.width, canvas.height), (25, 2))
    canvas.fill([ellipse(at, 1.3) for at in flakes], [(255.0,) * 3] * len(flakes))
    return horizon


def _street(canvas: Canvas, rng: np.random.Generator) -> float:
    horizon = _horizon(canvas, rng)
    _sky(canvas, rng)
    x = -rng.uniform(0, 40)
    while x < canvas.width:
        width = rng.uniform(40, 80)
        top = horizon - rng.uniform(50, 120)
        wall = _pick(
            rng, '#e5c9b0', '#d9b8a6', '#cfd6c4', '#c8cfdd', '#e8dcb8', '#d6bfd0'
        )
        canvas.fill([_box(x, top, x + width, horizon)], [wall])
        roof = np.array([(x - 3, top), (x + width + 3, top), (x + width / 2, top - 22)])
        canvas.fill([roof], [darker(wall, 0.22)])
        pane = blend(wall, _pick(rng, '#8fb4cc', '#f3e3a0'), 0.6)
        for window_y in np.arange(top + 10, horizon - 22, 26):
            for window_x in np.arange(x + 8, x + width - 14, 19):
                canvas.fill(
                    [_box(window_x, window_y, window_x + 11, window_y + 15)], [pane]
                )
        x += width
    _ground(canvas, horizon, _pick(rng, '#bdb5a8', '#b0aeb3', '#c4b8a5'))
    kerb = horizon + rng.uniform(14, 30)
    canvas.fill([_box(-1, kerb, canvas.width, kerb + 4)], [bgr('#989289')])
    return horizon


def _beach(canvas: Canvas, rng: np.random.Generator) -> float:
    horizon = _horizon(canvas, rng)
    _sky(canvas, rng)
    sea = _pick(rng, '#8ec5cf', '#7fb2cf', '#a0cfc4')
    _ground(canvas, horizon - rng.uniform(20, 50), sea)
    if rng.random() < 0.6:
        boat = np.array([rng.uniform(0.1, 0.9) * canvas.width, horizon - 14])
        sail = boat + np.array([(0, -34), (0, -4), (20, -4)])
        hull = boat + np.array([(-16, -2), (20, -2), (13, 7), (-9, 7)])
        canvas.fill([sail, hull], [bgr('#fbf5ea'), _pick(rng, '#b5765a', '#c9605a')])
    _ground(canvas, horizon, _pick(rng, '#dfc895', '#d6bb88', '#e0cda3'))
    if rng.random() < 0.6:
        foot = rng.uniform((0.05, 0.7), (0.95, 0.8)) * (canvas.width, canvas.height)
        top = foot - (0, rng.uniform(70, 95))
        canvas.fill([capsule(foot, top, 1.5, 1.5)], [bgr('#c9b79c')])
        angle = np.linspace(np.pi, 2 * np.pi, 16)
        dome = top + np.column_stack([np.cos(angle) * 38, np.sin(angle) * 22 + 8])
        canvas.fill([dome], [_pick(rng, '#e9a39a', '#f0cf8a', '#9fc4dd')])
    return horizon


def _room(canvas: Canvas, rng: np.random.Generator) -> float:
    horizon = rng.uniform(0.55, 0.66) * canvas.height
    wall = _pick(rng, '#cdb99f', '#b3c2ac', '#aebccd', '#d1aea5', '#bfb0c9', '#d6c48f')
    canvas.gradient(lighter(wall, 0.1), darker(wall, 0.06))
    if rng.random() < 0.4:
        for x in np.arange(rng.uniform(0, 20), canvas.width, 24):
            canvas.fill([_box(x, 0, x + 9, horizon)], [darker(wall, 0.05)])
    for _ in range(rng.integers(1, 3)):
        at = rng.uniform((0, 0.06), (0.8, 0.22)) * (canvas.width, canvas.height)
        size = rng.uniform(34, 66, 2)
        frame = _box(*at, *(at + size))
        inside = _box(*(at + 4), *(at + size - 4))
        view = _pick(rng, '#a9d0e6', '#b9d3b0', '#f0c7a0', '#c8b6dd')
        canvas.fill([frame, inside], [_pick(rng, '#fbf7ef', '#b08a66'), view])
        if rng.random() < 0.6:
            sun = at + size * rng.uniform(0.35, 0.65, 2)
            canvas.fill([ellipse(sun, size.min() * 0.18)], [lighter(view, 0.5)])
    floor = _pick(rng, '#c9a47e', '#b99a80', '#cdb79a', '#b7b3b8')
    _ground(canvas, horizon, floor)
    for y in horizon + (canvas.height - horizon) * np.array([0.12, 0.3, 0.56]):
        canvas.fill([_box(-1, y, canvas.width, y + 1)], [darker(floor, 0.12)])
    canvas.fill([_box(-1, horizon - 6, canvas.width, horizon)], [lighter(wall, 0.5)])
    if rng.random() < 0.5:
        rug = (
            rng.uniform(0.2, 0.8) * canvas.width,
            horizon + 0.6 * (canvas.height - horizon),
        )
        cloth = _pick(rng, '#d59a8c', '#8fa8c4', '#a9bf9a', '#dbc184')
        radii = np.array([rng.uniform(60, 100), 24])
        canvas.fill(
            [ellipse(rug, radii), ellipse(rug, radii * 0.8)],
            [cloth, lighter(cloth, 0.25)],
        )
    return horizon


def _studio(canvas: Canvas, rng: np.random.Generator) -> float:
    """A paper backdrop with soft discs."""
    colours = (
        '#d9b7a2',
        '#a9c7bd',
        '#b5afd0',
        '#d9c68c',
        '#a3bfd6',
        '#c9a9b6',
        '#8b9db3',
    )
    paper = _pick(rng, *colours)
    canvas.gradient(paper, blend(paper, _pick(rng, *colours), 0.6))
    for _ in range(rng.integers(2, 8)):
        at = rng.uniform((0, 0), (canvas.width, canvas.height))
        disc = blend(paper, _pick(rng, *colours), rng.uniform(0.3, 0.9))
        canvas.fill([ellipse(at, rng.uniform(12, 60))], [disc])
    return 0.5 * canvas.height


_PLACES: tuple[Callable[[Canvas, np.random.Generator], float], ...] = (
    _meadow,
    _snow,
    _street,
    _beach,
    _room,
    _studio,
)

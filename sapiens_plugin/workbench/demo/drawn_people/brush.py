"""Paints parts of one person, measured in statures."""

from enum import IntEnum

import numpy as np

from .canvas import Canvas, Colour, bgr, blend, capsule, ellipse
from .person import Person
from .pose import LEFT

PARTS_A_PERSON = 8  # numbers that each person takes of the 256 owners of a pixel

_LIGHT, _SHADE = bgr('#fff8e0'), bgr('#32142c')
_INK = 0.006


class Part(IntEnum):
    """A part of a person that owns pixels."""

    HEAD = 1
    TORSO = 2
    LEFT_ARM = 3
    RIGHT_ARM = 4
    LEFT_LEG = 5
    RIGHT_LEG = 6


def lit(colour: Colour, side: int) -> Colour:
    """The colour on the left side, in the light, or on the right, in the shade.

    From whichever direction a person is seen, this tells left from right.
    """
    if side == LEFT:
        return blend(colour, _LIGHT, 0.15)
    return blend(colour, _SHADE, 0.45)


class Brush:
    """Paints on a canvas for one person.

    Points are those of the body, (3,) or (N, 3); lengths are in statures.

    Args:
        canvas: Where to paint.
        person: Whom to paint.
        number: The person's number in the picture, from 1.
    """

    def __init__(self, canvas: Canvas, person: Person, number: int):
        self.canvas = canvas
        self.person = person
        self.body, self.look = person.body, person.look
        self._first_owner = number * PARTS_A_PERSON

    def disc(self, centre: np.ndarray, radius: float | tuple[float, float]):
        """Outline of a circle or an upright ellipse, (N, 2) px."""
        radii = np.multiply(radius, self.person.stature)
        return ellipse(self.person.on_picture(centre), radii)

    def bone(
        self, start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float
    ) -> np.ndarray:
        """Outline of a part of a limb, as thick as the person is, (N, 2) px."""
        scale = self.person.stature * self.look.bulk
        return capsule(
            self.person.on_picture(start),
            self.person.on_picture(end),
            start_radius * scale,
            end_radius * scale,
        )

    def paint(self, part: Part, *shapes: tuple[np.ndarray, Colour]) -> None:
        """Fill outlines (N, 2) px that belong together, with an ink line around all."""
        self._fill(part, shapes, _INK * self.person.stature)

    def tint(self, part: Part, *shapes: tuple[np.ndarray, Colour]) -> None:
        """Fill outlines (N, 2) px without an ink line."""
        self._fill(part, shapes, 0)

    def _fill(self, part: Part, shapes, ink: float) -> None:
        outlines, colours = zip(*shapes, strict=True)
        self.canvas.fill(outlines, colours, owner=self._first_owner + part, ink=ink)

    def line(
        self, part: Part, points: np.ndarray, colour: Colour, width: float
    ) -> None:
        """Draw an open line through points of the body (N, 3)."""
        self.canvas.stroke(
            self.person.on_picture(points),
            colour,
            width * self.person.stature,
            owner=self._first_owner + part,
        )

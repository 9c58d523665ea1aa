"""A canvas that remembers which object every pixel belongs to."""

from collections.abc import Sequence

import cv2
import numpy as np

# Twice the final resolution while drawing; averaging down smooths every edge.
OVERSAMPLING = 2
_FRACTION_BITS = 4

Colour = tuple[float, float, float]
"""Blue, green, red in 0…255, OpenCV's order."""


def bgr(hex_rgb: str) -> Colour:
    """Colour from six hexadecimal digits, as '#ffcc00'."""
    red, green, blue = bytes.fromhex(hex_rgb.lstrip('#'))
    return float(blue), float(green), float(red)


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """``share`` of the other colour, the rest of the first."""
    return tuple(a + (b - a) * share for a, b in zip(colour, other, strict=True))


def lighter(colour: Colour, share: float) -> Colour:
    """Towards white."""
    return blend(colour, (255, 255, 255), share)


def darker(colour: Colour, share: float) -> Colour:
    """Towards black."""
    return blend(colour, (0, 0, 0), share)


_CIRCLE = np.stack(
    [f(np.linspace(0, 2 * np.pi, 28, endpoint=False)) for f in (np.cos, np.sin)], axis=1
)


def ellipse(centre: np.ndarray, radii: float | tuple[float, float]) -> np.ndarray:
    """Outline of an upright ellipse, (28, 2) px."""
    return np.asarray(centre)[:2] + _CIRCLE * radii


def capsule(
    start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float
) -> np.ndarray:
    """Outline of a rounded, tapering stroke, (N, 2) px."""
    return hull(ellipse(start, start_radius), ellipse(end, end_radius))


def hull(*outlines: np.ndarray) -> np.ndarray:
    """Convex outline around all the given points, (N, 2) px."""
    return cv2.convexHull(np.concatenate(outlines).astype(np.float32))[:, 0]


class Canvas:
    """Draws filled polygons; the last one drawn on a pixel owns it.

    Args:
        width: px of the finished picture.
        height: px of the finished picture.
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        shape = (height * OVERSAMPLING, width * OVERSAMPLING)
        self._image = np.zeros((*shape, 3), np.uint8)
        self._owner = np.zeros(shape, np.uint8)

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Fill everything from one colour at the top to another at the bottom."""
        height, width = self._owner.shape
        ramp = np.linspace(top, bottom, height).round().astype(np.uint8)
        cv2.resize(
            ramp[:, None], (width, height), self._image, interpolation=cv2.INTER_NEAREST
        )

    def fill(
        self,
        outlines: Sequence[np.ndarray],
        colours: Sequence[Colour],
        *,
        owner: int = 0,
        ink: float = 0.0,
    ) -> None:
        """Draw shapes that belong together: every ink line first, then every filling.

        So a forearm joins its upper arm without a line between them.

        Args:
            outlines: closed polygons, each (N, 2) px.
            colours: one filling each.
            owner: whose the covered pixels are, 0…255; 0 is the background.
            ink: width of the dark line around the shapes, px.
        """
        fixed = [self._fixed_point(outline) for outline in outlines]
        if ink:
            width = max(1, round(2 * ink * OVERSAMPLING))
            for points, colour in zip(fixed, colours, strict=True):
                self._outline(points, darker(colour, 0.62), width, owner)
        for points, colour in zip(fixed, colours, strict=True):
            cv2.fillPoly(self._image, [points], colour, cv2.LINE_8, _FRACTION_BITS)
            cv2.fillPoly(self._owner, [points], owner, cv2.LINE_8, _FRACTION_BITS)

    def stroke(
        self, points: np.ndarray, colour: Colour, width: float, *, owner: int = 0
    ) -> None:
        """Draw an open line through points (N, 2) px, ``width`` px wide."""
        pixels = max(1, round(width * OVERSAMPLING))
        fixed = self._fixed_point(points)
        self._outline(fixed, colour, pixels, owner, closed=False)

    def colour_at(self, point: np.ndarray) -> Colour:
        """Colour of the drawing at, or nearest to, a point (2,) px."""
        height, width = self._owner.shape
        x, y = np.rint(np.asarray(point) * OVERSAMPLING).astype(int)
        pixel = self._image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return tuple(map(float, pixel))

    def _outline(
        self,
        fixed: np.ndarray,
        colour: Colour,
        pixels: int,
        owner: int,
        closed: bool = True,
    ) -> None:
        for plane, value in ((self._image, colour), (self._owner, owner)):
            cv2.polylines(
                plane, [fixed], closed, value, pixels, cv2.LINE_8, _FRACTION_BITS
            )

    def _fixed_point(self, points: np.ndarray) -> np.ndarray:
        """Finished px to OpenCV's fixed-point px of the larger drawing."""
        larger = (np.asarray(points) + 0.5) * OVERSAMPLING - 0.5
        return np.rint(larger * (1 << _FRACTION_BITS)).astype(np.int32)

    def image(self) -> np.ndarray:
        """The finished picture, (height, width, 3) uint8, blue-green-red."""
        size = (self.width, self.height)
        return cv2.resize(self._image, size, interpolation=cv2.INTER_AREA)

    def owners(self) -> np.ndarray:
        """Who owns each pixel of the finished picture, (height, width) uint8."""
        return self._owner[::OVERSAMPLING, ::OVERSAMPLING].copy()

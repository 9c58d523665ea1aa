"""A posed body with a look, at a place in the picture."""

from dataclasses import dataclass

import numpy as np

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES

from .canvas import Colour, bgr
from .pose import HEAD_RADIUS, Body, sample_body

_SKINS = ('#fbe0c8', '#f6d3b3', '#eab98f', '#d19a6b', '#a86f45', '#7a4b2e')
_HAIRS = ('#2b2320', '#4a2f20', '#7b4a25', '#c98d3a', '#e6c56a', '#a33f1f', '#8f8f96')
_WARM_CLOTHES = ('#d9483b', '#e88b2e', '#e9c238', '#d4619a', '#8a52a8')
_COOL_CLOTHES = ('#5fa84b', '#2f8f83', '#3b7dc4', '#4b4fa6', '#5d6b7a')
_CLOTHES = _WARM_CLOTHES + _COOL_CLOTHES
_SHOES = ('#4b3a32', '#c23a3a', '#e8e4da', '#2f5fa0', '#39404a')
_FACE = [name.endswith(('nose', 'eye', 'ear')) for name in KEYPOINT_NAMES]


@dataclass(frozen=True)
class Look:
    """Colours and clothes of a person.

    Attributes:
        skin: Colour of the skin.
        hair: Colour of the hair.
        hair_style: ``'short'``, ``'long'``, ``'bun'``, ``'curly'`` or ``'cap'``.
        top: Colour of the shirt.
        pattern: On the shirt: ``'plain'``, ``'stripes'``, ``'emblem'``, ``'buttons'``.
        long_sleeves: Whether the shirt reaches the wrists.
        bottom: Colour of what is below the shirt.
        bottom_style: ``'trousers'``, ``'shorts'`` or ``'skirt'``.
        shoes: Colour of the shoes.
        accent: Colour of the pattern, or of the cap.
        bulk: Thickness of limbs and torso, over the usual.
    """

    skin: Colour
    hair: Colour
    hair_style: str
    top: Colour
    pattern: str
    long_sleeves: bool
    bottom: Colour
    bottom_style: str
    shoes: Colour
    accent: Colour
    bulk: float


def sample_look(rng: np.random.Generator) -> Look:
    """A random look, in which shirt, trousers and accent differ."""

    def one_of(*choices: str) -> str:
        return choices[rng.integers(len(choices))]

    top, bottom, accent = rng.permutation(_CLOTHES)[:3]
    return Look(
        skin=bgr(one_of(*_SKINS)),
        hair=bgr(one_of(*_HAIRS)),
        hair_style=one_of('short', 'long', 'bun', 'curly', 'cap'),
        top=bgr(top),
        pattern=one_of('plain', 'stripes', 'emblem', 'buttons'),
        long_sleeves=rng.random() < 0.5,
        bottom=bgr(bottom),
        bottom_style=one_of('trousers', 'trousers', 'shorts', 'skirt'),
        shoes=bgr(one_of(*_SHOES)),
        accent=bgr(accent),
        bulk=rng.uniform(1.05, 1.35),
    )


@dataclass(frozen=True, eq=False)
class Person:
    """A person at a place in the picture.

    Attributes:
        body: The pose.
        look: Colours and clothes.
        stature: Height when standing upright, px.
        hips: Middle of the hips, (2,) px.
    """

    body: Body
    look: Look
    stature: float
    hips: np.ndarray

    @classmethod
    def sample(
        cls, rng: np.random.Generator, stature: float, ground: tuple[float, float]
    ) -> 'Person':
        """A random person who stands or sits on ``ground``, (x, y) px."""
        body, look = sample_body(rng), sample_look(rng)
        x = body.keypoints[:, 0]
        foot = np.array([(x.min() + x.max()) / 2, body.toes[:, 1].max()])
        return cls(body, look, stature, np.array(ground) - foot * stature)

    def on_picture(self, points: np.ndarray) -> np.ndarray:
        """Points of the body (…, 3) to px (…, 2)."""
        return self.hips + points[..., :2] * self.stature

    @property
    def keypoints(self) -> np.ndarray:
        """COCO's 17 points, (17, 2) px, also those outside the picture."""
        return self.on_picture(self.body.keypoints)

    @property
    def toes(self) -> np.ndarray:
        """Tips of the left and the right foot, (2, 2) px."""
        return self.on_picture(self.body.toes)

    def turned_away(self) -> np.ndarray:
        """Points of the face that lie behind the head, where nobody labels, (17,)."""
        depth = (self.body.keypoints - self.body.head)[:, 2]
        return _FACE & (depth < -0.3 * HEAD_RADIUS)

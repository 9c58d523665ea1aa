"""Plausible poses of an articulated body, projected onto the picture plane.

Points are (x, y, z) in units of the stature: x to the right of the picture, y down,
z towards the viewer; the middle of the hips is the origin. A frame is a (3, 3) array
whose rows are the directions left, up and forward of a part of the body.
"""

from dataclasses import dataclass

import numpy as np

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES

LEFT, RIGHT = 0, 1

_SIDES = (('left', 1), ('right', -1))

# The left of who faces us is on the right of the picture.
_FACING_US = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]])

# Lengths over the stature. The head is a little large, as in a picture book.
HEAD_RADIUS = 0.09
NECK = 0.028
TORSO = 0.275
HALF_SHOULDERS = 0.108
HALF_HIPS = 0.062
UPPER_ARM, FOREARM, HAND = 0.150, 0.135, 0.030
THIGH, SHIN, FOOT = 0.215, 0.205, 0.062

Direction = tuple[float, float, float]

# Where things sit on the head, seen from its middle, as (left, up, forward).
NOSE = (0.0, -0.16, 1.0)
EYE = (0.40, 0.08, 0.90)
EAR = (1.0, -0.08, -0.05)


@dataclass(frozen=True)
class Limb:
    """Directions of a limb's two segments, each (abduction, flexion) in degrees.

    (0, 0) hangs down; abduction lifts sideways, away from the body, and flexion lifts
    forwards.
    """

    upper: tuple[float, float]
    lower: tuple[float, float]

    def sample(
        self, rng: np.random.Generator, spread: tuple[float, float]
    ) -> np.ndarray:
        """Both pairs of angles, a little different each time, (2, 2)."""
        return np.array([self.upper, self.lower]) + rng.normal(0, spread, (2, 2))


_HANGING = Limb((12, 0), (7, 14))
_STRAIGHT = Limb((5, 0), (3, -4))


@dataclass(frozen=True)
class Attitude:
    """A way to hold the body: the mean of its limbs, (left, right)."""

    arms: tuple[Limb, Limb] = (_HANGING, _HANGING)
    legs: tuple[Limb, Limb] = (_STRAIGHT, _STRAIGHT)
    weight: float = 1.0
    seated: bool = False


def _both(upper: tuple[float, float], lower: tuple[float, float]) -> tuple[Limb, Limb]:
    return (Limb(upper, lower),) * 2


ATTITUDES = {
    'standing': Attitude(weight=1.2),
    'walking': Attitude(
        arms=(Limb((12, -30), (8, -8)), Limb((12, 26), (8, 52))),
        legs=(Limb((4, 28), (3, 12)), Limb((4, -16), (3, -42))),
        weight=1.6,
    ),
    'waving': Attitude(arms=(Limb((98, 5), (160, 10)), _HANGING), weight=1.2),
    'cheering': Attitude(arms=_both((142, 5), (164, 8)), weight=1.0),
    'hands on hips': Attitude(
        arms=_both((48, -8), (-46, 16)), legs=_both((11, 0), (8, -3))
    ),
    'arms wide': Attitude(arms=_both((84, 0), (88, 8)), legs=_both((12, 0), (10, 0))),
    'jumping': Attitude(
        arms=_both((118, 0), (132, 0)), legs=_both((30, 8), (24, -28)), weight=0.9
    ),
    'pointing': Attitude(arms=(Limb((72, 20), (78, 22)), Limb((40, -8), (-40, 16)))),
    'dancing': Attitude(
        arms=(Limb((125, 0), (60, 10)), Limb((60, 10), (125, 12))),
        legs=(Limb((30, 30), (-14, -24)), _STRAIGHT),
    ),
    'thinking': Attitude(
        arms=(Limb((16, 34), (-22, 138)), Limb((14, 30), (-50, 84))), weight=0.5
    ),
    'lunging': Attitude(
        arms=(Limb((88, 8), (92, 8)), Limb((110, 0), (120, 0))),
        legs=(Limb((46, 18), (6, -6)), Limb((32, 0), (30, -6))),
        weight=0.8,
    ),
    'sitting': Attitude(
        arms=_both((16, 22), (0, 58)),
        legs=_both((10, 76), (3, -4)),
        weight=1.3,
        seated=True,
    ),
}


@dataclass(frozen=True)
class Body:
    """One posed body.

    Attributes:
        keypoints: COCO's 17 points, (17, 3).
        head: middle of the head, (3,).
        head_frame: frame of the head, (3, 3).
        torso_frame: frame of the chest, (3, 3).
        hands: finger tips, left and right, (2, 3).
        toes: tips of the feet, left and right, (2, 3).
        seated: whether something to sit on belongs under the hips.
    """

    keypoints: np.ndarray
    head: np.ndarray
    head_frame: np.ndarray
    torso_frame: np.ndarray
    hands: np.ndarray
    toes: np.ndarray
    seated: bool

    def __getitem__(self, name: str) -> np.ndarray:
        """The keypoint of this name, (3,)."""
        return self.keypoints[KEYPOINT_NAMES.index(name)]

    def pair(self, name: str) -> np.ndarray:
        """Left and right keypoint of this name, (2, 3)."""
        return np.stack([self[f'left_{name}'], self[f'right_{name}']])


def sample_body(rng: np.random.Generator) -> Body:
    """A body in a random attitude, seen from in front, from behind or in between."""
    attitude = _sample_attitude(rng)
    swap = rng.random() < 0.5
    arms = attitude.arms[::-1] if swap else attitude.arms
    legs = attitude.legs[::-1] if swap else attitude.legs

    yaw = rng.normal(0, 24) if attitude.seated else _facing(rng)
    from_above = _rotation(0, rng.uniform(2, 14), rng.normal(0, 4))
    pelvis = _rotation(yaw, 0, 0) @ from_above @ _FACING_US
    torso = _rotation(rng.normal(0, 5), rng.normal(3, 3), rng.normal(0, 7)) @ pelvis
    head = _rotation(rng.normal(0, 8), rng.normal(0, 3), rng.normal(0, 6)) @ torso

    joints, hands, toes = {}, [], []
    neck = torso[1] * TORSO
    for side, (name, sign) in enumerate(_SIDES):
        upper, lower = _directions(arms[side].sample(rng, (11, 6)), torso, sign)
        shoulder = neck + sign * torso[0] * HALF_SHOULDERS
        elbow = shoulder + upper * UPPER_ARM
        wrist = elbow + lower * FOREARM
        hands.append(wrist + lower * HAND)
        joints |= {f'{name}_shoulder': shoulder}
        joints |= {f'{name}_elbow': elbow, f'{name}_wrist': wrist}

        upper, lower = _directions(legs[side].sample(rng, (6, 5)), pelvis, sign)
        hip = sign * pelvis[0] * HALF_HIPS
        knee = hip + upper * THIGH
        ankle = knee + lower * SHIN
        toes.append(ankle + FOOT * np.array([sign * 0.35, -0.45, 1]) @ pelvis)
        joints |= {f'{name}_hip': hip, f'{name}_knee': knee, f'{name}_ankle': ankle}

    middle = neck + torso[1] * NECK + head[1] * HEAD_RADIUS
    joints['nose'] = middle + on_head(head, NOSE)
    for name, sign in _SIDES:
        joints[f'{name}_eye'] = middle + on_head(head, (sign * EYE[0], *EYE[1:]))
        joints[f'{name}_ear'] = middle + on_head(head, (sign * EAR[0], *EAR[1:]))
    return Body(
        keypoints=np.stack([joints[name] for name in KEYPOINT_NAMES]),
        head=middle,
        head_frame=head,
        torso_frame=torso,
        hands=np.stack(hands),
        toes=np.stack(toes),
        seated=attitude.seated,
    )


def _sample_attitude(rng: np.random.Generator) -> Attitude:
    attitudes = list(ATTITUDES.values())
    weights = np.array([attitude.weight for attitude in attitudes])
    return attitudes[rng.choice(len(attitudes), p=weights / weights.sum())]


def _facing(rng: np.random.Generator) -> float:
    """Degrees that the body is turned from facing the viewer."""
    view = rng.choice(['front', 'back', 'three-quarter'], p=[0.64, 0.26, 0.1])
    if view == 'three-quarter':
        return rng.choice([-1, 1]) * rng.uniform(35, 65)
    return rng.normal(0 if view == 'front' else 180, 14)


def _rotation(yaw: float, nod: float, tilt: float) -> np.ndarray:
    """Turn a frame by degrees about its own up, left and forward directions."""
    angles = np.radians([yaw, nod, tilt])
    (cy, cn, ct), (sy, sn, st) = np.cos(angles), np.sin(angles)
    about_up = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_left = np.array([[1, 0, 0], [0, cn, sn], [0, -sn, cn]])
    about_forward = np.array([[ct, st, 0], [-st, ct, 0], [0, 0, 1]])
    return about_forward @ about_left @ about_up


def _directions(angles: np.ndarray, frame: np.ndarray, sign: int) -> np.ndarray:
    """Unit vectors (2, 3) along a limb's segments, from their angles (2, 2)."""
    abduction, flexion = np.radians(angles).T
    local = np.stack(
        [
            sign * np.sin(abduction),
            -np.cos(abduction) * np.cos(flexion),
            np.cos(abduction) * np.sin(flexion),
        ],
        axis=1,
    )
    return local @ frame


def on_head(head_frame: np.ndarray, direction: Direction) -> np.ndarray:
    """Offset from the middle of the head to its surface.

    Args:
        head_frame: frame of the head, (3, 3).
        direction: towards the point, as (left, up, forward); any length.
    """
    unit = np.asarray(direction, dtype=float)
    return HEAD_RADIUS * (unit / np.linalg.norm(unit)) @ head_frame

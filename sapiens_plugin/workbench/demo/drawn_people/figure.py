"""Draws a person in the manner of a picture book, and tells which joints are seen."""

from functools import partial

import numpy as np

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES

from .brush import PARTS_A_PERSON, Brush, Part, lit
from .canvas import Canvas, blend, darker, hull
from .head import draw_hanging_hair, draw_head
from .person import Person
from .pose import HEAD_RADIUS, LEFT, RIGHT


def draw_person(canvas: Canvas, person: Person, number: int) -> None:
    """Draw a person, the farthest part of the body first.

    Args:
        canvas: Where to draw.
        person: Whom to draw.
        number: The person's number in the picture, from 1.
    """
    brush, body = Brush(canvas, person, number), person.body
    chest = body.pair('shoulder')[:, 2].mean() / 2
    nape = body.head[2] - body.head_frame[2, 2] * HEAD_RADIUS
    layers = [
        (nape - 0.02, draw_hanging_hair),
        (chest, _draw_torso),
        (chest + 0.01, draw_head),
    ]
    for side in (LEFT, RIGHT):
        forearm = (body.pair('elbow')[side] + body.pair('wrist')[side]) / 2
        knee = body.pair('knee')[side]
        # Arms that just hang are seen; legs come out from under the shirt.
        layers.append((forearm[2] + 0.03, partial(_draw_arm, side=side)))
        layers.append((knee[2] - 0.11, partial(_draw_leg, side=side)))
    for _, draw in sorted(layers, key=lambda layer: layer[0]):
        draw(brush)


def is_occluded(person: Person, owners: np.ndarray, number: int) -> np.ndarray:
    """Which keypoints (17,) lie under something else than their own part of the body.

    Args:
        person: As drawn by :func:`draw_person`.
        owners: Owner of the pixel at each keypoint, (17,).
        number: As given to :func:`draw_person`.
    """
    parts = owners.astype(int) - number * PARTS_A_PERSON
    return np.array(
        [part not in own for part, own in zip(parts, _OWN_PARTS, strict=True)]
    )


def _own_parts(keypoint: str) -> set[Part]:
    """The parts on which a keypoint is seen."""
    side, _, joint = keypoint.rpartition('_')
    arm, leg = Part.LEFT_ARM, Part.LEFT_LEG
    if side == 'right':
        arm, leg = Part.RIGHT_ARM, Part.RIGHT_LEG
    return {
        'shoulder': {Part.TORSO, arm},
        'elbow': {arm},
        'wrist': {arm},
        'hip': {Part.TORSO, leg},
        'knee': {leg},
        'ankle': {leg},
    }.get(joint, {Part.HEAD})


_OWN_PARTS = [_own_parts(name) for name in KEYPOINT_NAMES]


# Clothes mark the joints: sleeves, trousers and socks end there, or bear a patch.


def _draw_arm(brush: Brush, *, side: int) -> None:
    body, look = brush.body, brush.look
    joints = ('shoulder', 'elbow', 'wrist')
    shoulder, elbow, wrist = (body.pair(joint)[side] for joint in joints)
    skin, sleeve = lit(look.skin, side), lit(look.top, side)
    part = Part.LEFT_ARM if side == LEFT else Part.RIGHT_ARM
    forearm = brush.bone(elbow, wrist, 0.027, 0.023)
    brush.paint(
        part,
        (brush.bone(wrist, body.hands[side], 0.021, 0.024), skin),
        (forearm, sleeve if look.long_sleeves else skin),
        (brush.bone(shoulder, elbow, 0.037, 0.03), sleeve),
    )
    if look.long_sleeves:
        brush.tint(part, (brush.disc(elbow, 0.02), darker(sleeve, 0.25)))


def _draw_leg(brush: Brush, *, side: int) -> None:
    body, look = brush.body, brush.look
    hip, knee, ankle = (body.pair(joint)[side] for joint in ('hip', 'knee', 'ankle'))
    skin, cloth = lit(look.skin, side), lit(look.bottom, side)
    part = Part.LEFT_LEG if side == LEFT else Part.RIGHT_LEG
    heel = ankle + np.array([0, 0.012, 0])
    thigh, shin = {
        'trousers': (cloth, cloth),
        'shorts': (cloth, skin),
        'skirt': (skin, lit(look.accent, side)),
    }[look.bottom_style]
    brush.paint(
        part,
        (brush.bone(heel, body.toes[side], 0.027, 0.022), lit(look.shoes, side)),
        (brush.bone(knee, ankle, 0.034, 0.025), shin),
        (brush.bone(hip, knee, 0.05, 0.036), thigh),
    )
    if look.bottom_style == 'trousers':
        brush.tint(part, (brush.disc(knee, 0.023), darker(cloth, 0.25)))


def _draw_torso(brush: Brush) -> None:
    body, look = brush.body, brush.look
    shoulders, hips, knees = (body.pair(j) for j in ('shoulder', 'hip', 'knee'))
    seat = brush.bone(*hips, 0.048, 0.048)
    if look.bottom_style == 'skirt':
        hem = hips + (knees - hips) * 0.6
        skirt = hull(seat, brush.bone(*hem, 0.06, 0.06))
        brush.paint(Part.TORSO, (skirt, look.bottom))
    else:
        brush.tint(Part.TORSO, (seat, look.bottom))
    neck = brush.bone(shoulders.mean(0), body.head, 0.03, 0.03)
    brush.paint(Part.TORSO, (neck, darker(look.skin, 0.12)))
    shirt = (brush.bone(*shoulders, 0.034, 0.034), brush.bone(*hips, 0.026, 0.026))
    brush.paint(Part.TORSO, (hull(*shirt), look.top))
    belt = brush.bone(*hips, 0.019, 0.019)
    brush.paint(Part.TORSO, (belt, darker(look.bottom, 0.4)))
    accent = blend(look.accent, look.top, 0.25)
    if look.pattern == 'stripes':
        for down in (0.3, 0.52, 0.74):
            stripe = shoulders + (hips - shoulders) * down
            brush.line(Part.TORSO, stripe, accent, 0.022)
    if body.torso_frame[2, 2] > 0.35:
        _draw_chest(brush, shoulders.mean(0), hips.mean(0), accent)


def _draw_chest(brush: Brush, neck: np.ndarray, hips: np.ndarray, accent) -> None:
    """What is on the front of a shirt only."""

    def down(share: float) -> np.ndarray:
        return neck + (hips - neck) * share + brush.body.torso_frame[2] * 0.03

    brush.tint(
        Part.TORSO, (brush.bone(down(0.0), down(0.12), 0.028, 0.008), brush.look.skin)
    )
    if brush.look.pattern == 'emblem':
        brush.tint(Part.TORSO, (brush.disc(down(0.4), 0.032), accent))
    elif brush.look.pattern == 'buttons':
        buttons = [brush.disc(down(share), 0.009) for share in (0.32, 0.53, 0.74)]
        brush.tint(Part.TORSO, *((button, accent) for button in buttons))

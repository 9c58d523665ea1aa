import numpy as np
import pytest

from sapiens_plugin.core.coco.keypoints import KEYPOINT_NAMES
from sapiens_plugin.workbench.demo.drawn_people.brush import PARTS_A_PERSON, Part
from sapiens_plugin.workbench.demo.drawn_people.canvas import Canvas
from sapiens_plugin.workbench.demo.drawn_people.figure import draw_person, is_occluded
from sapiens_plugin.workbench.demo.drawn_people.person import Person

GROUND = (100, 190)


def person(seed: int) -> Person:
    return Person.sample(np.random.default_rng(seed), 170, GROUND)


def owners_at(canvas: Canvas, points: np.ndarray) -> np.ndarray:
    column, row = points.round().astype(int).T
    return canvas.owners()[row, column]


@pytest.mark.parametrize('seed', range(12))
def test_stands_on_the_ground_in_one_piece(seed):
    canvas, someone = Canvas(200, 220), person(seed)
    draw_person(canvas, someone, 1)
    parts = set(np.unique(canvas.owners())) - {0}
    assert parts <= {PARTS_A_PERSON + part for part in Part}
    assert PARTS_A_PERSON + Part.HEAD in parts
    assert someone.toes[:, 1].max() == pytest.approx(GROUND[1])
    rows = np.flatnonzero((canvas.owners() > 0).any(1))
    assert rows[-1] == pytest.approx(GROUND[1], abs=8)
    assert (np.diff(rows) == 1).all()


@pytest.mark.parametrize('seed', range(12))
def test_joints_lie_on_the_person(seed):
    canvas, someone = Canvas(200, 220), person(seed)
    draw_person(canvas, someone, 1)
    assert (owners_at(canvas, someone.keypoints) > 0).all()


def test_one_in_front_occludes():
    canvas, behind = Canvas(200, 220), person(3)
    draw_person(canvas, behind, 1)
    before = is_occluded(behind, owners_at(canvas, behind.keypoints), 1)
    draw_person(canvas, behind, 2)
    at = owners_at(canvas, behind.keypoints)
    assert is_occluded(behind, at, 1).all()
    assert (is_occluded(behind, at, 2) == before).all()
    assert not before.all()


@pytest.mark.parametrize(
    ('keypoint', 'part', 'occluded'),
    [
        ('left_elbow', Part.LEFT_ARM, False),
        ('left_elbow', Part.RIGHT_ARM, True),
        ('left_elbow', Part.TORSO, True),
        ('right_hip', Part.TORSO, False),
        ('right_hip', Part.RIGHT_LEG, False),
        ('right_hip', Part.RIGHT_ARM, True),
        ('right_knee', Part.LEFT_LEG, True),
        ('nose', Part.HEAD, False),
        ('left_ear', Part.LEFT_ARM, True),
    ],
)
def test_a_joint_is_seen_on_its_own_part_only(keypoint, part, occluded):
    owners = np.full(17, PARTS_A_PERSON + part, np.uint8)
    answer = is_occluded(person(0), owners, 1)
    assert answer[KEYPOINT_NAMES.index(keypoint)] == occluded


def test_faces_are_unlabelled_from_behind_only():
    hidden = 0
    for seed in range(60):
        someone = person(seed)
        away = someone.turned_away()
        assert not away[5:].any()
        depth = someone.body.head_frame[2, 2]
        if depth < -0.75:
            assert away[:3].all()
            hidden += 1
        if depth > 0.5:
            assert not away[:3].any()
    assert 5 < hidden < 30


def test_what_is_nearer_to_us_is_in_front():
    """Wrists before the chest are seen, and some of those behind it are not."""
    before, behind = [], []
    for seed in range(150):
        canvas, someone = Canvas(200, 220), person(seed)
        draw_person(canvas, someone, 1)
        hidden = is_occluded(someone, owners_at(canvas, someone.keypoints), 1)
        chest = someone.body.pair('shoulder')[:, 2].mean() / 2
        for side in ('left', 'right'):
            nearer = someone.body[f'{side}_wrist'][2] - chest
            answer = hidden[KEYPOINT_NAMES.index(f'{side}_wrist')]
            if abs(nearer) > 0.06:
                (before if nearer > 0 else behind).append(answer)
    assert len(before) > 50 and np.mean(before) < 0.05
    assert len(behind) > 20 and np.mean(behind) > 0.12

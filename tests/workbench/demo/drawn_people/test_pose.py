import numpy as np
import pytest

from sapiens_plugin.workbench.demo.drawn_people import pose
from sapiens_plugin.workbench.demo.drawn_people.pose import HEAD_RADIUS, sample_body


def bodies(count: int = 60):
    return [sample_body(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(
    ('start', 'end', 'length'),
    [
        ('shoulder', 'elbow', pose.UPPER_ARM),
        ('elbow', 'wrist', pose.FOREARM),
        ('hip', 'knee', pose.THIGH),
        ('knee', 'ankle', pose.SHIN),
    ],
)
def test_bones_keep_their_length_in_space(start, end, length):
    for body in bodies():
        bone = body.pair(end) - body.pair(start)
        assert np.linalg.norm(bone, axis=1) == pytest.approx(length)


def test_frames_are_orthonormal_and_right_handed():
    for body in bodies():
        for frame in (body.head_frame, body.torso_frame):
            np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
            # Left × up points backwards in a picture whose y runs down.
            assert np.cross(frame[0], frame[1]) @ frame[2] == pytest.approx(-1)


def test_left_is_to_the_right_of_who_faces_us():
    facing = 0
    for body in bodies():
        left, right = body.pair('shoulder')
        across = left[0] - right[0]
        if abs(across) > 0.1:
            towards_us = body.torso_frame[2, 2] > 0
            assert (across > 0) == towards_us
            facing += towards_us
    assert 20 < facing < 50


def test_the_face_is_on_the_head_and_the_head_on_top():
    for body in bodies():
        face = body.keypoints[:5] - body.head
        assert np.linalg.norm(face, axis=1) == pytest.approx(HEAD_RADIUS)
        assert body.head[1] < body.pair('shoulder')[:, 1].min()
        assert body.pair('hip').mean(0) == pytest.approx(np.zeros(3), abs=1e-12)


def test_every_attitude_occurs():
    seated = sum(body.seated for body in bodies(100))
    assert 4 < seated < 25
    raised = sum(body['left_wrist'][1] < body.head[1] for body in bodies(100))
    assert 10 < raised < 60

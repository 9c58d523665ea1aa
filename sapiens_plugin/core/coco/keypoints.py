"""COCO's 17 human keypoints: their names, order and skeleton."""

KEYPOINT_NAMES = (
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
)

SKELETON = (
    ('left_ankle', 'left_knee'),
    ('left_knee', 'left_hip'),
    ('right_ankle', 'right_knee'),
    ('right_knee', 'right_hip'),
    ('left_hip', 'right_hip'),
    ('left_shoulder', 'left_hip'),
    ('right_shoulder', 'right_hip'),
    ('left_shoulder', 'right_shoulder'),
    ('left_shoulder', 'left_elbow'),
    ('right_shoulder', 'right_elbow'),
    ('left_elbow', 'left_wrist'),
    ('right_elbow', 'right_wrist'),
    ('left_eye', 'right_eye'),
    ('nose', 'left_eye'),
    ('nose', 'right_eye'),
    ('left_eye', 'left_ear'),
    ('right_eye', 'right_ear'),
    ('left_ear', 'left_shoulder'),
    ('right_ear', 'right_shoulder'),
)

WHOLEBODY_FIELDS = {
    'keypoints': 17,
    'foot_kpts': 6,
    'face_kpts': 68,
    'lefthand_kpts': 21,
    'righthand_kpts': 21,
}
"""How COCO-WholeBody's annotations hold 133 keypoints: fields, and how many in each."""


def person_category() -> dict:
    """The one entry of ``categories`` in a COCO keypoint file."""
    number = {name: index for index, name in enumerate(KEYPOINT_NAMES, start=1)}
    return {
        'supercategory': 'person',
        'id': 1,
        'name': 'person',
        'keypoints': list(KEYPOINT_NAMES),
        'skeleton': [[number[a], number[b]] for a, b in SKELETON],
    }

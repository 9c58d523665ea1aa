"""A model whose keypoints are others than those of the data."""

import copy

import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.datasets.transforms import KeypointConverter
from mmpose.evaluation.metrics import CocoMetric
from mmpose.structures import PoseDataSample

import sapiens_plugin.registry  # noqa: F401  (repairs what is tested)

# Of COCO's 17 keypoints all but eyes and ears.
WITHOUT_EYES = [(0, 0), *((index, index - 4) for index in range(5, 17))]


@pytest.fixture(scope='module')
def meta() -> dict:
    return parse_pose_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))


def converted(meta: dict, *, count: int, mapping: list) -> dict:
    return KeypointConverter(num_keypoints=count, mapping=mapping)(
        dict(
            keypoints=np.zeros((1, 17, 2)),
            keypoints_visible=np.ones((1, 17)),
            flip_indices=list(meta['flip_indices']),
        )
    )


def test_left_and_right_are_converted(meta):
    flips = converted(meta, count=13, mapping=WITHOUT_EYES)['flip_indices']
    assert flips == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]


def test_points_between_others_are_flipped(meta):
    # The neck and the middles of both sides, between shoulder and hip.
    mapping = [((5, 6), 0), ((5, 11), 1), ((12, 6), 2), (9, 4)]
    flips = converted(meta, count=5, mapping=mapping)['flip_indices']
    assert flips == [0, 2, 1, 3, 4]  # 4, a left wrist, has no right one


def test_data_without_left_and_right_stays_so(meta):
    meta = meta | {'flip_indices': ()}
    results = dict(keypoints=np.zeros((1, 17, 2)))
    converter = KeypointConverter(num_keypoints=13, mapping=WITHOUT_EYES)
    assert converter(results)['flip_indices'] is None


def evaluate(metric: CocoMetric, demo) -> dict:
    """Evaluate predictions that lie some px beside the truth."""
    rng = np.random.default_rng(0)
    originals = CocoMetric(ann_file=str(demo.annotations('val'))).coco.anns
    for annotation in originals.values():
        points = np.array(annotation['keypoints'], float).reshape(1, 17, 3)
        points = points[:, [source for source, _ in WITHOUT_EYES], :2]
        metric.process(
            [],
            [
                dict(
                    id=annotation['id'],
                    img_id=annotation['image_id'],
                    pred_instances=dict(
                        keypoints=points + rng.normal(0, 3, points.shape),
                        keypoint_scores=np.ones(points.shape[:2]),
                    ),
                    gt_instances={},
                )
            ],
        )
    return metric.evaluate(len(originals))


def test_every_evaluation_is_the_first(meta, demo):
    before = copy.deepcopy(meta)
    converter = dict(num_keypoints=13, mapping=WITHOUT_EYES)
    metrics = [
        CocoMetric(ann_file=str(demo.annotations('val')), gt_converter=converter)
        for _ in range(2)
    ]
    for metric in metrics:  # as an evaluator does
        metric.dataset_meta = meta
    results = [evaluate(metric, demo) for metric in metrics * 2]
    assert 0 < results[0]['coco/AP'] < 1
    assert results == results[:1] * 4
    np.testing.assert_equal(meta, before)


def test_a_metric_knows_the_skeleton_of_what_it_compares(meta, demo):
    metric = CocoMetric(
        ann_file=str(demo.annotations('val')),
        gt_converter=dict(num_keypoints=13, mapping=WITHOUT_EYES),
    )
    metric.dataset_meta = meta
    own = metric.dataset_meta
    assert own['num_keypoints'] == len(own['sigmas']) == 13
    names = own['keypoint_id2name']
    assert [names[index] for index in range(13)] == [
        meta['keypoint_id2name'][source] for source, _ in WITHOUT_EYES
    ]
    links = {frozenset((names[a], names[b])) for a, b in own['skeleton_links']}
    assert frozenset(('left_knee', 'left_hip')) in links
    assert not {name for link in links for name in link} & {'left_eye', 'right_ear'}
    assert len(own['skeleton_link_colors']) == len(links)


@pytest.mark.parametrize('count', [13, 17, 26])
def test_poses_of_other_keypoints_are_drawn(count, meta):
    from mmpose.visualization import PoseLocalVisualizer  # after the repairs

    visualizer = PoseLocalVisualizer(name=f'drawing {count}')
    visualizer.set_dataset_meta(meta)
    sample = PoseDataSample(
        pred_instances=InstanceData(
            keypoints=np.tile([[[20.0, 30.0]]], (1, count, 1)),
            keypoint_scores=np.ones((1, count)),
        )
    )
    picture = visualizer.add_datasample(
        'a pose', np.zeros((64, 48, 3), np.uint8), sample, draw_gt=False
    )
    assert picture[30, 20].any()
    assert visualizer.skeleton == meta['skeleton_links']  # for those that follow

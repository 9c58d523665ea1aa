"""The numbers and files of CocoMetric, beside those of xtcocotools and stock MMPose."""

import json
import math

import coco_cases
import numpy as np
import pytest
from mmpose.evaluation.functional import oks_nms, soft_oks_nms
from mmpose.evaluation.metrics import CocoMetric

from sapiens_plugin.compat.coco_evaluation import _scores
from sapiens_plugin.core.coco import suppression
from sapiens_plugin.errors import InputError

TABLE = json.loads(coco_cases.TABLE.read_text(encoding='utf-8'))


@pytest.mark.parametrize('name', coco_cases.CASES)
def test_numbers_are_those_of_xtcocotools(name, tmp_path):
    found = coco_cases.numbers(name, tmp_path)
    assert found.keys() == TABLE[name].keys()
    for part, values in found.items():
        assert values == pytest.approx(TABLE[name][part], rel=0, abs=1e-9), part


def test_the_table_tells_apart():
    assert {*coco_cases.CASES} == {*TABLE}
    assert len({tuple(found['metric']) for found in TABLE.values()}) == len(TABLE)
    for found in TABLE.values():
        assert 0.02 < found['metric'][0] < 0.9


@pytest.fixture
def metric(tmp_path):
    people = coco_cases.People(images=4)
    metric = CocoMetric(outfile_prefix=str(tmp_path / 'found'))
    metric.dataset_meta = {
        'dataset_name': 'cases',
        'sigmas': people.sigmas,
        'num_keypoints': 17,
        'CLASSES': people.categories,
    }
    return metric, people


def pairs(people):
    return [(dict(pose), people.truth(pose)) for pose in people.results]


def test_results_are_written_as_stock_writes_them(metric, tmp_path):
    metric, people = metric
    metric.nms_mode, metric.score_mode = 'none', 'bbox'
    metric.compute_metrics(pairs(people))
    text = (tmp_path / 'found.keypoints.json').read_text('utf-8')
    written = json.loads(text)
    assert [*written[0]] == [
        'bbox', 'category_id', 'image_id', 'keypoints', 'score'
    ]  # fmt: skip
    by_id = {pose['id']: pose for pose in people.results}  # without the repeated ones
    assert len(written) == len(by_id)
    poses = sorted(by_id.values(), key=lambda pose: pose['img_id'])
    for found, pose in zip(
        sorted(written, key=lambda found: found['image_id']), poses, strict=True
    ):
        scores = pose['keypoint_scores'][0][:, None]
        keypoints = np.hstack([pose['keypoints'][0], scores])
        # Python's floats: all digits of the float32, not only those that tell it apart.
        assert found['keypoints'] == keypoints.ravel().tolist()
        assert found['bbox'] == pose['bbox'][0].tolist()
        assert found['score'] == float(pose['bbox_scores'][0])
    assert not list(tmp_path.glob('*.part'))


def test_a_model_that_has_diverged_is_worth_nothing(metric, tmp_path):
    metric, people = metric
    metric.nms_mode = 'none'
    results = pairs(people)
    assert metric.compute_metrics(results)['AP'] > 0.1
    for pose, _ in results:
        pose['keypoints'] = np.full_like(pose['keypoints'], math.nan)
    assert metric.compute_metrics(results)['AP'] == 0
    written = json.loads((tmp_path / 'found.keypoints.json').read_text('utf-8'))
    assert math.isnan(written[0]['keypoints'][0])


def test_poses_of_other_keypoints_are_refused(metric):
    metric, people = metric
    metric.dataset_meta['num_keypoints'] = 13
    with pytest.raises(InputError, match=r'Poses have 17 keypoints.* has 13\. pred_co'):
        metric.compute_metrics(pairs(people))


def test_results_are_written_and_not_evaluated(metric, tmp_path):
    metric, people = metric
    metric.format_only = True
    assert metric.compute_metrics(pairs(people)) == {}
    assert json.loads((tmp_path / 'found.keypoints.json').read_text('utf-8'))


@pytest.mark.parametrize('soft', [False, True])
def test_suppression_is_that_of_mmpose(soft):
    random = np.random.default_rng(0)
    kept = set()
    for count in (1, 2, 15):
        center = random.uniform(0, 200, (3, 17, 2))[random.integers(0, 3, count)]
        points = center + random.normal(size=(count, 17, 2)) * 4
        keypoints = np.concatenate([points, np.ones((count, 17, 1))], -1)
        keypoints = keypoints.astype(np.float32)
        areas = random.uniform(1e3, 1e4, count).astype(np.float32)
        scores = random.random(count)
        sigmas = np.linspace(0.025, 0.1, 17)
        poses = [
            dict(keypoints=k, area=a, score=s)
            for k, a, s in zip(keypoints, areas, scores, strict=True)
        ]
        stock = (soft_oks_nms if soft else oks_nms)(poses, 0.5, sigmas=sigmas)
        ours = (suppression.soft if soft else suppression.hard)(
            suppression.similarity(keypoints, areas, sigmas), scores, 0.5
        )
        assert ours == stock.tolist()
        kept.add(len(ours))
    assert len(kept) == 3


def test_scores_are_sums_in_float64(metric):
    metric, _ = metric
    of_keypoints = np.array([[0.1, 0.7, 0.9], [0.1, 0.1, 0.1]], np.float32)
    of_boxes = np.array([0.9, 0.9], np.float32)
    exact = (float(np.float32(0.7)) + float(np.float32(0.9))) / 2
    scores = _scores(metric, of_boxes, of_keypoints)  # 0.1 is below the threshold
    assert scores.tolist() == [float(np.float32(0.9)) * exact, 0]

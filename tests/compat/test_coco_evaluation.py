"""The numbers and files of CocoMetric, beside those of xtcocotools and stock MMPose."""

import json
import math
from pathlib import Path

import coco_cases
import numpy as np
import pytest
from mmpose.evaluation.metrics import CocoMetric

from sapiens_plugin.compat.coco_evaluation import _scores
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


def test_results_come_into_folders_that_are_not_there(metric, tmp_path):
    metric, people = metric
    first = metric.compute_metrics(pairs(people))
    metric.outfile_prefix = f'{tmp_path}//new/./poses'
    assert metric.compute_metrics(pairs(people)) == first
    assert json.loads((tmp_path / 'new' / 'poses.keypoints.json').read_text('utf-8'))
    assert metric.coco.fresh is None  # nothing stays in memory
    # Read back from the file they give the same numbers.
    assert dict(metric._do_python_keypoint_eval(metric.outfile_prefix)) == first


def test_a_file_that_could_not_be_written_leaves_the_one_before(metric, tmp_path):
    metric, people = metric
    metric.compute_metrics(pairs(people))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert 'found.keypoints.json' in before
    results = pairs(people)
    results[0][0]['category_id'] = object()
    with pytest.raises(TypeError):
        metric.compute_metrics(results)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Edited(CocoMetric):
    """As others write metrics: with stock's keys, around stock's methods."""

    def _sort_and_unique_bboxes(self, kpts, key='id'):
        in_order = super()._sort_and_unique_bboxes(kpts, key)
        for pose in (pose for poses in in_order.values() for pose in poses):
            assert pose['keypoints'].shape == (17, 2)
            pose['bbox_score'] = pose['bbox_score'] * pose['keypoint_scores'].mean()
        return in_order

    def results2json(self, keypoints, outfile_prefix):
        assert keypoints['no such image'] == []  # as PoseTrack18Metric asks
        for pose in (pose for poses in keypoints.values() for pose in poses):
            pose['keypoints'] = pose['keypoints'].tolist()
        super().results2json(keypoints, outfile_prefix)
        path = Path(f'{outfile_prefix}.keypoints.json')
        written = json.loads(path.read_text('utf-8'))
        self.scores = [found['score'] for found in written]
        for found in written:
            found['keypoints'][0::3] = [0] * 17
        path.write_text(json.dumps(written), encoding='utf-8')


def test_metrics_of_others_are_obeyed(metric):
    metric, people = metric
    plain = metric.compute_metrics(pairs(people))
    edited = Edited(score_mode='bbox', nms_mode='none')
    edited.dataset_meta = metric.dataset_meta
    assert edited.compute_metrics(pairs(people))['AP'] < 0.01 < plain['AP']
    products = {
        float(pose['bbox_scores'][0] * pose['keypoint_scores'][0].mean())
        for pose in people.results
    }
    assert {*edited.scores} == products


def test_models_of_other_keypoints_are_converted(metric):
    metric, people = metric
    plain = metric.compute_metrics(pairs(people))
    order = [*range(5, 17), *range(5)]
    results = pairs(people)
    for pose, _ in results:
        for name in ('keypoints', 'keypoint_scores'):
            pose[name] = pose[name][:, order]
    assert metric.compute_metrics(results)['AP'] < plain['AP'] / 2
    metric.pred_converter = dict(num_keypoints=17, mapping=list(enumerate(order)))
    assert metric.compute_metrics(results) == pytest.approx(plain)


def test_scores_are_sums_in_float64(metric):
    metric, _ = metric
    of_keypoints = np.array([[0.1, 0.7, 0.9], [0.1, 0.1, 0.1]], np.float32)
    of_boxes = np.array([0.9, 0.9], np.float32)
    exact = (float(np.float32(0.7)) + float(np.float32(0.9))) / 2
    scores = _scores(metric, of_boxes, of_keypoints)  # 0.1 is below the threshold
    assert scores.tolist() == [float(np.float32(0.9)) * exact, 0]

"""Several data sets in one validation, judged each by itself."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.structures import InstanceData

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)
from sapiens_plugin.errors import InputError
from sapiens_plugin.streamed.pose_estimator import TopdownPoseEstimator

COCO = dict(from_file='configs/_base_/datasets/coco.py')


@pytest.fixture(autouse=True)
def predictions(monkeypatch):
    """Predict the truth, some persons farther from it than others."""

    def predict(self, inputs, data_samples):
        for sample in data_samples:
            true = sample.gt_instances
            off = len(Path(sample.img_path).name) + sample.img_path.encode()[-5] % 5
            keypoints = true.keypoints + 3.0 * (off % 5)
            scores = np.ones(keypoints.shape[:2])
            sample.pred_instances = InstanceData(
                keypoints=keypoints, keypoint_scores=scores, bboxes=true.bboxes
            )
        return data_samples

    monkeypatch.setattr(TopdownPoseEstimator, 'predict', predict)


def split(cfg, folder, *, keep_ids):
    """Return the validation set of a config as two parts of its type."""
    whole = cfg.val_dataloader.dataset
    path = f'{whole.data_root}/{whole.ann_file}'
    content = json.loads(Path(path).read_text(encoding='utf-8'))
    half = {image['id'] for image in content['images'][::2]}
    parts = []
    for name, is_first in (('one', True), ('two', False)):
        part = copy.deepcopy(content)
        for key, field in (('images', 'id'), ('annotations', 'image_id')):
            part[key] = [e for e in part[key] if (e[field] in half) == is_first]
        if not keep_ids:  # as two exports of a tool have them
            numbers = {image['id']: i for i, image in enumerate(part['images'], 1)}
            for image in part['images']:
                image['id'] = numbers[image['id']]
            for number, person in enumerate(part['annotations'], 1):
                person.update(id=number, image_id=numbers[person['image_id']])
        file = folder / f'{name}.json'
        file.write_text(json.dumps(part), encoding='utf-8')
        metainfo = dict(COCO, dataset_name=name)
        parts.append(dict(whole, ann_file=str(file), metainfo=metainfo, pipeline=[]))
    return parts


def combine(cfg, parts, evaluator):
    pipeline = cfg.val_dataloader.dataset.pipeline
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_dataloader.dataset = dict(
        _delete_=True,
        type='CombinedDataset',
        metainfo=COCO,
        datasets=parts,
        pipeline=pipeline,
        test_mode=True,
    )
    cfg.test_dataloader.dataset.pop('_delete_', None)
    cfg.test_evaluator = evaluator


def both(parts):
    metrics = [dict(type='CocoMetric', prefix=name) for name in ('one', 'two')]
    return dict(type='MultiDatasetEvaluator', metrics=metrics, datasets=parts)


@pytest.mark.parametrize('keep_ids', [True, False])
def test_each_part_has_its_own_numbers(demo_config, make_runner, tmp_path, keep_ids):
    parts = split(demo_config, tmp_path, keep_ids=keep_ids)
    combine(demo_config, parts, both(parts))
    found = make_runner(demo_config).test()
    precisions = set()
    for part in parts:
        alone = copy.deepcopy(demo_config)
        alone.test_dataloader.dataset = dict(
            part, pipeline=demo_config.test_dataloader.dataset.pipeline
        )
        alone.test_evaluator = dict(type='CocoMetric')
        name = part['metainfo']['dataset_name']
        for key, value in make_runner(alone).test().items():
            assert found[key.replace('coco', name)] == value
        precisions.add(found[f'{name}/AP'])
    assert len(precisions) == 2 and min(precisions) > 0.2


def test_parts_of_one_name_are_refused(demo_config, make_runner, tmp_path):
    parts = split(demo_config, tmp_path, keep_ids=True)
    for part in parts:
        part.pop('metainfo')
    combine(demo_config, parts, both(parts))
    with pytest.raises(InputError, match=r"called 'coco'.*dataset_name='mine'"):
        make_runner(demo_config).test()


def test_each_part_needs_a_metric(demo_config, make_runner, tmp_path):
    parts = split(demo_config, tmp_path, keep_ids=True)
    combine(demo_config, parts, both(parts[:1]))
    with pytest.raises(InputError, match='2 metrics for 1 datasets'):
        make_runner(demo_config).test()

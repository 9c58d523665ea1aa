"""Precision and recall beside those of pycocotools."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from sapiens_plugin.core.coco.precision_recall import precision_recall
from sapiens_plugin.errors import InputError

SIGMAS = np.array([0.03, 0.08, 0.05])


def people(random, images=12):
    persons, poses = [], []
    for image in range(images):
        for _ in range(random.integers(0, 4)):
            box = random.uniform([0, 0, 20, 20], [300, 300, 200, 200])
            points = box[:2] + random.random((3, 2)) * box[2:]
            flags = random.integers(0, 3, 3)
            persons.append(
                {
                    'id': len(persons) + 1,
                    'image_id': image,
                    'category_id': int(random.integers(0, 2)),
                    'keypoints': np.c_[points, flags].ravel().tolist(),
                    'num_keypoints': int((flags > 0).sum()),
                    'area': box[2] * box[3] / 2,
                    'bbox': box.tolist(),
                    'iscrowd': int(random.random() < 0.2),
                }
            )
            for _ in range(random.integers(0, 8)):
                near = points + random.normal(size=(3, 2)) * box[2] / 15
                poses.append(
                    {
                        'id': len(poses) + 1,
                        'image_id': image,
                        'category_id': int(random.integers(0, 2)),
                        'keypoints': np.c_[near, np.ones(3)].ravel().tolist(),
                        'score': round(random.random(), 1),  # some are equal
                        'area': box[2] * box[3],
                    }
                )
    return persons, poses


def reference(persons, poses, images):
    def index(entries):
        coco = COCO()
        coco.dataset = {
            'images': [{'id': image} for image in range(images)],
            'categories': [{'id': 0}, {'id': 1}],
            'annotations': [dict(entry) for entry in entries],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(persons), index(poses), 'keypoints')
        evaluation.params.kpt_oks_sigmas = SIGMAS
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def compare(persons, poses, images=12, **options):
    params = Params('keypoints')
    params.imgIds, params.catIds = range(images), [0, 1]
    vars(params).update(options)
    return precision_recall(persons, poses, sigmas=SIGMAS, params=params)


@pytest.mark.parametrize('seed', range(4))
def test_all_values_are_those_of_pycocotools(seed):
    persons, poses = people(np.random.default_rng(seed))
    found, expected = compare(persons, poses), reference(persons, poses, 12)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12)
    assert len(np.unique(found['precision'])) > 5


def test_only_what_is_asked_for_counts():
    persons, poses = people(np.random.default_rng(0))
    some = compare(persons, poses, images=5)
    first = [[e for e in entries if e['image_id'] < 5] for entries in (persons, poses)]
    np.testing.assert_array_equal(some['precision'], compare(*first)['precision'])
    assert compare(persons, poses, catIds=[1])['recall'].shape == (10, 1, 3, 1)
    assert (compare(persons, [], iouThrs=[0.5])['recall'] <= 0).all()
    assert (compare([], poses)['precision'] == -1).all()


def test_what_is_not_finite_is_of_no_use():
    persons, poses = people(np.random.default_rng(0))
    good = compare(persons, poses)['precision']
    lost = [pose | {'keypoints': [math.nan] * 9, 'score': math.nan} for pose in poses]
    assert compare(persons, lost)['recall'].max() == 0
    # Ranked last, they take nothing away from good ones.
    np.testing.assert_array_equal(compare(persons, poses + lost)['precision'], good)


def test_another_number_of_keypoints_is_refused():
    persons, poses = people(np.random.default_rng(0))
    poses[3]['keypoints'] = [1.0] * 6
    image = poses[3]['image_id']
    with pytest.raises(InputError, match=f'image {image} has 6 numbers for 3 keypoint'):
        compare(persons, poses)

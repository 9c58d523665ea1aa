"""Suppression beside that of MMPose."""

import numpy as np
import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)
from sapiens_plugin.core.coco import suppression

from mmpose.evaluation.functional import oks_nms, soft_oks_nms  # isort: skip


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


def test_of_equal_scores_the_later_one_is_the_better():
    scores = np.tile([0.5, 0.7, 0.6], 40)
    order = suppression.hard(np.eye(120), scores, 0.9)
    assert order == sorted(range(120), key=lambda i: (-scores[i], -i))
    assert suppression.hard(np.ones((120, 120)), scores, 0.9) == [118]


def test_types_are_those_of_numpy_1():
    """float32 throughout where poses and sigmas have it, whatever a mean area is."""
    random = np.random.default_rng(0)
    keypoints = random.uniform(0, 20, (20, 17, 2)).astype(np.float32)
    sigmas = np.linspace(0.025, 0.1, 17).astype(np.float32)
    areas = random.uniform(500, 2000, 20).astype(np.float32)

    def expected(kind):
        x, y = keypoints[..., 0], keypoints[..., 1]
        squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
        mean = ((areas[:, None] + areas) / 2).astype(kind)[..., None]
        exponent = (squared / (sigmas * 2) ** 2).astype(kind) / mean / 2
        return (np.exp(-exponent).sum(axis=-1) / 17).astype(np.float32)

    found = suppression.similarity(keypoints, areas, sigmas)
    np.testing.assert_array_equal(found, expected(np.float32))
    assert not np.array_equal(found, expected(np.float64))

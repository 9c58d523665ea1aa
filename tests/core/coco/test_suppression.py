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
    similar = np.eye(40, dtype=np.float32)
    scores = np.full(40, 0.5)
    assert suppression.hard(similar, scores, 0.9) == list(range(39, -1, -1))
    assert suppression.hard(np.ones((40, 40)), scores, 0.9) == [39]


def test_types_are_those_of_numpy_1():
    """float32 throughout where poses and sigmas have it, whatever areas have."""
    keypoints = np.random.default_rng(0).uniform(0, 20, (2, 17, 2)).astype(np.float32)
    sigmas = np.linspace(0.025, 0.1, 17).astype(np.float32)
    areas = np.array([900, 1700], np.float32)
    first, second = keypoints
    squared = ((first - second) ** 2).sum(axis=-1, dtype=np.float32)
    exponent = squared / (sigmas * 2) ** 2 / np.float32(1300 + np.spacing(1)) / 2
    assert exponent.dtype == np.float32
    expected = np.exp(-exponent).sum() / np.float32(17)
    assert suppression.similarity(keypoints, areas, sigmas)[0, 1] == expected

"""Of poses in one place, the best: non-maximum suppression by keypoint similarity."""

import numpy as np


def similarity(
    keypoints: np.ndarray, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Compare all poses of an image by object keypoint similarity (OKS).

    Args:
        keypoints: x, y in px, ``(N, K, 2)``.
        areas: px², ``(N,)``.
        sigmas: How far apart people place each keypoint, ``(K,)``.

    Returns:
        ``(N, N)`` float32. As in MMPose's ``oks_iou`` the area of a pair is their mean,
        all keypoints count, and operations have its order and, whatever the version of
        NumPy, the types that they have with NumPy 1.
    """
    area = (areas[:, None] + areas) / 2 + np.spacing(1)
    x, y = (np.ascontiguousarray(keypoints[..., axis]) for axis in (0, 1))
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    distance = squared / (sigmas * 2) ** 2
    distance = distance / area[..., None].astype(distance.dtype) / 2
    return (np.exp(-distance).sum(axis=-1) / len(sigmas)).astype(np.float32)


def hard(similar: np.ndarray, scores: np.ndarray, limit: float) -> list[int]:
    """Keep a pose unless it is too similar to a better one that is kept.

    Args:
        similar: ``(N, N)``, 0 to 1.
        scores: ``(N,)``. Of equal ones the later pose comes first.
        limit: Similarity up to which both are kept.

    Returns:
        Indices of the poses kept, best first.
    """
    kept, order = [], _best_first(scores)
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[similar[best, rest] <= limit]
    return kept


def soft(
    similar: np.ndarray, scores: np.ndarray, limit: float, *, most: int = 20
) -> list[int]:
    """Keep the poses that are best when similarity to better ones lowers a score.

    Args:
        similar: ``(N, N)``, 0 to 1.
        scores: ``(N,)``. Of equal ones the later pose comes first.
        limit: Width of the Gaussian by which a score is lowered.
        most: How many are kept.

    Returns:
        Indices of the poses kept, in the order in which they were taken.
    """
    kept, order = [], _best_first(scores)
    scores = scores[order]
    while order.size and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        scores = scores[1:] * np.exp(-(similar[best, order] ** 2) / limit)
        again = _best_first(scores)
        order, scores = order[again], scores[again]
    return kept


def _best_first(scores: np.ndarray) -> np.ndarray:
    # Stable: NumPy's own sort puts equal scores in an order that depends on the CPU.
    return scores.argsort(kind='stable')[::-1]

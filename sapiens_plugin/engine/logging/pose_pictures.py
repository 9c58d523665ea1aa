"""Predicted beside true poses, on the crops that a model saw."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

_HEIGHT = 240  # px of a crop on a sheet
_FAR = 10_000  # px; OpenCV's coordinates end somewhere
_GAP = 6  # px of white around each pair
_WHITE = (255, 255, 255)


def draw_pose(
    image: np.ndarray,
    keypoints: np.ndarray,
    *,
    shown: np.ndarray,
    links: Sequence[tuple[int, int]],
    link_colors: np.ndarray,
) -> np.ndarray:
    """Return a picture with a pose on it.

    Args:
        image: (H, W, 3), RGB, uint8.
        keypoints: (K, 2) in px of the image.
        shown: (K,) whether a keypoint is there to be drawn.
        links: Pairs of keypoints that a line connects, where both are there.
        link_colors: (len(links), 3), RGB.
    """
    image = np.ascontiguousarray(image).copy()
    # A model that has diverged predicts anything.
    near = (np.abs(keypoints) < _FAR).all(axis=1)  # False for what is not a number
    shown = np.asarray(shown) & near
    places = np.where(near[:, None], keypoints, 0)
    points = [tuple(point) for point in np.rint(places).astype(int).tolist()]
    for (a, b), color in zip(links, np.asarray(link_colors).tolist(), strict=True):
        if shown[a] and shown[b]:
            cv2.line(image, points[a], points[b], color, 2, cv2.LINE_AA)
    for point in (p for p, is_shown in zip(points, shown, strict=True) if is_shown):
        cv2.circle(image, point, 4, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(image, point, 3, _WHITE, -1, cv2.LINE_AA)
    return image


def draw_pair(
    image: np.ndarray,
    *,
    predicted: np.ndarray,
    predicted_shown: np.ndarray,
    true: np.ndarray,
    true_shown: np.ndarray,
    skeletons: Mapping[int, tuple[Sequence[tuple[int, int]], np.ndarray]],
) -> np.ndarray:
    """Return a crop twice, with the predicted pose to the left and the true one right.

    Args:
        image: (H, W, 3), RGB, uint8; it is scaled to a common height.
        predicted: (K, 2) in px of the image.
        predicted_shown: (K,) whether to draw it.
        true: (L, 2) in px of the image.
        true_shown: (L,) whether to draw it.
        skeletons: By the number of keypoints, links and their colours as of
            :func:`draw_pose`. Poses of other numbers have none.
    """
    scale = _HEIGHT / image.shape[0]
    image = cv2.resize(image, (round(image.shape[1] * scale), _HEIGHT))
    halves = []
    for title, points, shown in (
        ('predicted', predicted, predicted_shown),
        ('true', true, true_shown),
    ):
        links, colors = skeletons.get(len(points), ((), ()))
        half = draw_pose(
            image, points * scale, shown=shown, links=links, link_colors=colors
        )
        for color, width in (((0, 0, 0), 3), (_WHITE, 1)):
            cv2.putText(
                half, title, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, width,
                cv2.LINE_AA,
            )  # fmt: skip
        halves.append(half)
    return np.hstack(halves)


def arrange(pictures: Sequence[np.ndarray], *, columns: int = 4) -> np.ndarray:
    """Return pictures of one size as a sheet, row by row.

    Args:
        pictures: One or more, each (H, W, 3).
        columns: Pictures in a row.
    """
    columns = min(columns, len(pictures))
    blank = np.full_like(pictures[0], 255)
    padded = [*pictures, *[blank] * (-len(pictures) % columns)]
    framed = [
        cv2.copyMakeBorder(p, *[_GAP] * 4, cv2.BORDER_CONSTANT, value=_WHITE)
        for p in padded
    ]
    return np.vstack(
        [np.hstack(framed[i : i + columns]) for i in range(0, len(framed), columns)]
    )

"""Blur augmentation."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from sapiens_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomBlur(BaseTransform):
    """Blur the image now and then, by a Gaussian or a median filter.

    The published Sapiens recipe uses both at a probability of 0.1.

    Args:
        gaussian_prob: Chance of a Gaussian blur.
        median_prob: Chance of a median blur, drawn on its own.
        kernel_sizes: Odd kernel sizes in px to draw from; medians of 8-bit images
            are fast up to 5.
    """

    def __init__(
        self,
        *,
        gaussian_prob: float = 0.1,
        median_prob: float = 0.1,
        kernel_sizes: tuple[int, ...] = (3, 5, 7),
    ):
        self.gaussian_prob = gaussian_prob
        self.median_prob = median_prob
        self.kernel_sizes = kernel_sizes

    def transform(self, results: dict) -> dict:
        """Blur ``results['img']``, (H, W, 3) uint8."""
        if np.random.random() < self.gaussian_prob:
            size = int(np.random.choice(self.kernel_sizes))
            results['img'] = cv2.GaussianBlur(results['img'], (size, size), 0)
        if np.random.random() < self.median_prob:
            size = int(np.random.choice(self.kernel_sizes))
            results['img'] = cv2.medianBlur(results['img'], size)
        return results

"""Keypoints are drawn whatever NumPy takes for a number."""

import numpy as np
import pytest

from sapiens_plugin.compat import drawing


@pytest.mark.parametrize('radius', [3, np.array([3])])
def test_a_radius_may_be_an_array_with_one_number(radius):
    visualizer = drawing.OpencvBackendVisualizer(backend='opencv')
    visualizer.set_image(np.zeros((20, 20, 3), np.uint8))
    visualizer.draw_circles(np.array([10.0, 10.0]), radius, face_colors=(255, 0, 0))
    drawn = visualizer.get_image()[..., 0] > 0
    assert 25 < drawn.sum() < 45 and drawn[10, 13] and not drawn[10, 15]

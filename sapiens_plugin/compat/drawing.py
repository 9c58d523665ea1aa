"""Drawing: keypoints on pictures."""

from functools import cache, wraps
from typing import Any

import numpy as np
from mmpose.visualization.opencv_backend_visualizer import OpencvBackendVisualizer


@cache
def draw_circles_of_one_radius() -> None:
    """Let keypoints be drawn with NumPy 2.5 and later.

    Symptom:
        ``--show-dir``: TypeError: only 0-dimensional arrays can be converted to Python
        scalars.

    Cause:
        The radius of a keypoint is an array with one number, which ``int`` took until
        NumPy 2.4.

    Cure:
        It becomes that number.
    """
    draw_circles = OpencvBackendVisualizer.draw_circles

    @wraps(draw_circles)
    def draw(self: OpencvBackendVisualizer, center: Any, radius: Any, **options) -> Any:
        if self.backend == 'opencv':
            radius = np.asarray(radius).item()
        return draw_circles(self, center, radius, **options)

    OpencvBackendVisualizer.draw_circles = draw

import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)
from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator


@pytest.fixture(autouse=True)
def travelling(monkeypatch):
    """Have weights travel on the CPU wherever a test gives a budget."""
    monkeypatch.setattr(StreamedTopdownPoseEstimator, 'travels_on_cpu', True)

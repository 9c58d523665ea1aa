"""MMPose data transforms."""

"""MMPose modules: the Sapiens backbone and its heatmap head."""

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)

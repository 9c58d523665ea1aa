"""Bringing COCO and the published weights here, resumed and verified."""

"""Bringing data here: COCO, the published weights, and the demo data."""

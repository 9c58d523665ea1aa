"""Optimizer groups and schedules, and which steps are taken."""

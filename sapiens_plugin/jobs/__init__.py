"""Configs: checked, read into a job, written back, announced as a plan."""

"""Configs: read into a job, written back, announced as a plan."""

"""A job, described once: read off its config as plain values."""

"""What a run does and did: its log, time left, metrics, and the page on it."""

"""What a run shows while it goes on: its log line, bar, metrics.csv and pictures."""

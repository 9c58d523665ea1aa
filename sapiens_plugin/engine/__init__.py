"""MMEngine modules: hooks, the loop, logging, optimizer groups and schedules."""

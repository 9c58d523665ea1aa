"""MMEngine modules: hooks, optimizer wrappers and schedules, the loop, logging."""

"""MMEngine modules: phases, optimizer groups, schedules and guards."""

"""What several modules ask of runs, processes and models."""

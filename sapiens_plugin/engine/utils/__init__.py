"""What several modules ask of processes and models."""

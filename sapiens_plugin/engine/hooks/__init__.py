"""What happens beside the steps of a run: phases, checkpoints, guards, reports."""

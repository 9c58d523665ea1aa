"""Checkpoints that are whole, or are known not to be."""

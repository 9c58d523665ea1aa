"""Samples by their place, whoever makes them and when."""

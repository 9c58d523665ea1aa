"""A training that goes on as if it had not stopped."""

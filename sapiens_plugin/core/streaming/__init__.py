"""Training a deep chain of blocks whose weights live in host memory."""

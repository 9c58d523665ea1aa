"""The Sapiens ViTs: architectures, the eager model, and weights of another size."""

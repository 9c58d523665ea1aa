"""The Sapiens ViT: architectures, eager model, and readers for its weight files."""

"""What lies between files and batches: samples by their place, data sets in others."""

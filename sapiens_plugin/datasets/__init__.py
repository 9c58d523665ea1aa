"""What lies between files and batches."""

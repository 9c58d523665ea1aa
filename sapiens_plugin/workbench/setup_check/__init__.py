"""Is everything in place for a job, and what mends what is not."""

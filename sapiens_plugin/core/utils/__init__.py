"""Small tools for files, disks, memory, threads, JSON and progress bars."""

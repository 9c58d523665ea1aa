"""Small tools for files, folders, disks, locks, memory, threads, JSON and words."""

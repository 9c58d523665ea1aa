"""What a job will take: hours, memory, disk; and what else would fit."""

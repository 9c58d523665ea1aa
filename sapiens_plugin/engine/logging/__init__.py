"""The log line, and metrics in files of their own."""

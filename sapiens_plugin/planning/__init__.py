"""What a job needs and what it will take. Plain numbers; no MM package here."""

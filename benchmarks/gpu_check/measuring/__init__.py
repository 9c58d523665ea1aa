"""What several tasks measure with."""

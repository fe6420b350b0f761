"""What may vary: one define-by-run function for each search space."""

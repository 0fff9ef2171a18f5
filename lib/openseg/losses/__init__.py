"""Training losses: one file each, by name, and their weighted sum."""

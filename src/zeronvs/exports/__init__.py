"""Floor 3: export."""

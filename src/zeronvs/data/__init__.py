"""Floor 2: data."""

"""Floor 2: estimation."""

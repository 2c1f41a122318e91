"""Floor 2: scene."""

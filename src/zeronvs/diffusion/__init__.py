"""Floor 2: diffusion."""

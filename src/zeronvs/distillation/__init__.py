"""Floor 3: distillation."""

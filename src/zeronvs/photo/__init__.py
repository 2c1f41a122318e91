"""A photograph: load it, estimate its camera."""

"""Sources of posed scenes."""

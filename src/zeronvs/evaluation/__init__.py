"""Floor 5: metrics, protocols and reports."""

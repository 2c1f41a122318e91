"""Monocular depth estimators."""

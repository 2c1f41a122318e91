"""ZeroNVS: one photograph in, new views and a 360-degree scene out."""

__version__ = "0.1.0"

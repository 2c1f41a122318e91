"""Readers and writers, one file format in one file."""

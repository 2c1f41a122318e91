"""Benchmark protocols: what each measures as data, and readers of folders as they are published."""

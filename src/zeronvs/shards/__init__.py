"""The published WebDataset layout: write, index, sample, load."""

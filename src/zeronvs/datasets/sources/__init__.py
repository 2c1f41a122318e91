"""Data sets of other people as scenes of posed frames, one file a format."""

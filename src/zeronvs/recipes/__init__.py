"""Recipes: from a photograph to a scene, and the files of a run."""

"""Floor 0: errors, random numbers, optional imports, progress events, safe writing of files."""

"""Students in files: written, damaged, read, folded and exported."""

"""retrieval-SfM-120k: photos of 713 places, grouped by reconstruction."""

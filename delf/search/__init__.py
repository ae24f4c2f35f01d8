"""A collection on disk: build, change, search."""

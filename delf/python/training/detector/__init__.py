"""The detector of landmarks that comes with the package, and its training."""

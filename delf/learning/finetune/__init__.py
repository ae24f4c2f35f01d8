"""Training on a folder of one's own photos, from photos to a model."""

"""Training on plain photos, and the model that comes with the package."""

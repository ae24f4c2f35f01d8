"""Ground truth in, metrics and reports out."""

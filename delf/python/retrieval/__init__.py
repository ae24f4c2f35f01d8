"""Matching and searching with features, without TensorFlow."""

"""Google Landmarks: configurations of models trained on it."""

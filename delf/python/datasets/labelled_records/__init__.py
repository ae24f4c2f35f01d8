"""Photos with class labels in TFRecord files: written, and drawn."""

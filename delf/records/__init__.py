"""Photos with class labels in TFRecord files, and tuples of photos."""

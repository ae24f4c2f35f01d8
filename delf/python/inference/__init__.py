"""From an exported model to the features of an image."""

"""Models, their training, and exporting them."""

"""Two images, lists of pairs, and verification of rankings."""

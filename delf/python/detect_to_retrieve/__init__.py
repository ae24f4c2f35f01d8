"""Detect-to-Retrieve: scripts and names of the original."""

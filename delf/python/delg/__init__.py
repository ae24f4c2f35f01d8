"""DELG: configurations of its published models."""

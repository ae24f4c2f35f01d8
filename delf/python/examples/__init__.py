"""Example scripts and functions of the original."""

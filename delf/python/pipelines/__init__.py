"""Whole tasks: files in, files out."""

"""Errors, files, arrays, boxes and progress: what every package may import."""

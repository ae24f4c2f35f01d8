"""Errors, files, arrays, boxes and progress: the bottom layer."""

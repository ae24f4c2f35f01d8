"""Older path of `delf.python.datasets`."""

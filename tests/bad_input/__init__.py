"""Rows of the table of bad and odd input, one module a part of the library."""

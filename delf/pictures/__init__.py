"""Figures and pages: the only importers of matplotlib."""

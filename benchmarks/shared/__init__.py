"""Modules shared by benchmarks: photos with ground truth, methods, tables."""

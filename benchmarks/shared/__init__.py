"""What several benchmarks share: photos with ground truth, methods, tables."""

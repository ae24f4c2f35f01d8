"""Commands that are killed and repeated: inputs, runs and their comparison."""

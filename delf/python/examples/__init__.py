"""Scripts and names of the original's examples."""

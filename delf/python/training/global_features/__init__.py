"""Training of global descriptors on pairs of photos, as of SfM-120k."""

"""Arrays in, rankings out: dense, approximate and inverted indexes."""

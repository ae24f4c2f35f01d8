"""Training: data, loop, and what each kind of network learns."""

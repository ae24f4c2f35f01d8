"""Training: the loop, and a learner for each kind of network."""

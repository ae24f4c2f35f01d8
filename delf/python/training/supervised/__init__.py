"""Training of DELF and DELG on labelled photos."""

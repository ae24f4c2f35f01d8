"""The models: backbones, DELF and DELG, and the graphs they are exported as."""

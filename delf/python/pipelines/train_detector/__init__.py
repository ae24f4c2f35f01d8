"""`delf train-detector`: a detector from one's own photos and boxes."""

import numpy as np

from delf.python import spread


def test_lines_are_capped_and_spread():
  random = np.random.default_rng(0)
  points = random.uniform(0, 1, (5000, 2))
  points[:4000] *= 0.1  # A crowd of strong ones in a corner.
  strengths = np.where(np.arange(5000) < 4000, 0.9, 0.3).astype(np.float32)
  chosen = spread.choose(points, strengths, 1.0)
  assert len(chosen) == len(set(chosen.tolist())) == spread.MAX_LINES
  assert (chosen >= 4000).sum() > 50

import subprocess
import sys

import numpy as np

from delf.pictures import lines


def test_lines_are_capped_and_spread():
  random = np.random.default_rng(0)
  points = random.uniform(0, 1, (5000, 2))
  points[:4000] *= 0.1  # A crowd of strong ones in a corner.
  strengths = np.where(np.arange(5000) < 4000, 0.9, 0.3).astype(np.float32)
  chosen = lines.spread(points, strengths, 1.0)
  assert len(chosen) == len(set(chosen.tolist())) == lines.MAX_LINES
  assert (chosen >= 4000).sum() > 50


def test_pages_and_searches_do_not_load_matplotlib():
  code = (
    "import sys; from delf.pictures import results_page; "
    "from delf.search import searching; "
    "assert 'matplotlib' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)

import dataclasses

import cv2
import numpy as np
import pytest

from delf.learning import view_pairs
from delf.learning.finetune import measuring, model, run

_SCORES = measuring.Scores(0.8, (3, 4), (3, 8), 20.0)


def _photos(number):
  generator = np.random.default_rng(0)
  found = []
  for i in range(number):
    noise = generator.integers(0, 256, [12, 16, 3], dtype=np.uint8)
    image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    found.append(view_pairs.Photo(f"{i}", image, i, i))
  return found


def test_overall_is_the_mean_of_what_there_is():
  assert _SCORES.overall() == pytest.approx((0.8 + 0.5) / 2)
  labelled = dataclasses.replace(_SCORES, mean_average_precision=0.2)
  assert labelled.overall() == pytest.approx((0.8 + 0.5 + 0.2) / 3)
  alone = dataclasses.replace(_SCORES, average_precision=None)
  assert alone.overall() == pytest.approx(0.5)
  assert model.rows({"before": alone})[1][1] == "none unrelated"


def test_synthetic_pairs_show_the_same_and_unrelated_ones_do_not():
  found = measuring.make_pairs(_photos(4), [], side=96)
  assert len(found.true) == 32 and len(found.images) == 4 + 2 * 32
  first, second, real, truth = found.true[5]
  assert not real
  # What the homography sends from one view to the other is brighter in both.
  one, two = (
    cv2.GaussianBlur(found.images[i], (0, 0), 3) for i in (first, second)
  )
  moved = cv2.warpPerspective(one, truth["H"], (96, 96))
  inside = moved.sum(2) > 0
  same = np.corrcoef(moved[inside].ravel(), two[inside].ravel())[0, 1]
  assert same > 0.5
  assert len(found.unrelated) == 150
  assert measuring.make_pairs(_photos(1), [], side=96).unrelated.shape == (0, 2)


def test_the_better_is_kept_and_the_first_of_equal_ones():
  better = dataclasses.replace(_SCORES, average_precision=0.9)
  assert run.best({"before": _SCORES, "after": better}) == "after"
  assert run.best({"before": _SCORES, "after": _SCORES}) == "before"


def test_held_out_photos_come_first_of_those_that_are_searched():
  asked = np.arange(2000) < 50
  labels = np.arange(2000) % 500
  generator = np.random.default_rng(0)
  found = measuring.choose_searched(generator, asked, labels)
  assert len(found) == 1000 and set(range(50)) <= set(found.tolist())
  assert np.isin(np.flatnonzero(labels < 50), found).all()

import numpy as np

from delf.python.pipelines.train import splitting


def test_a_tenth_is_held_out_in_runs_of_names():
  names = [f"{i:04d}" for i in range(500)]
  kept = splitting.held_out(names[::-1])[::-1]
  assert kept.sum() == 50
  starts = np.flatnonzero(np.diff(kept.astype(int)) == 1)
  assert len(starts) == 5


def test_few_photos_have_two_held_out():
  assert splitting.held_out(list("abcdefghij")).sum() == 2


def test_a_fifth_of_each_class_is_held_out():
  labels = ["a"] * 12 + ["b"] * 3 + ["c"] * 2 + [None] * 5
  names = [f"{i:02d}" for i in range(len(labels))]
  kept = splitting.held_out(names, labels)
  assert np.flatnonzero(kept).tolist() == [10, 11, 14]


def test_no_more_than_200_are_measured_with():
  names = [f"{i:05d}" for i in range(5000)]
  assert splitting.held_out(names).sum() == 200
  assert splitting.held_out(
    names, [str(i // 5) for i in range(5000)]
  ).sum() == (200)

import numpy as np
import pytest

from delf.records import tuples


def _descriptors(random, number, size=8):
  found = random.standard_normal([number, size]).astype(np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def _one_by_one(queries, own, images, descriptors, clusters, number):
  """Finds them by the definition: down the ranking, a cluster once."""
  found = []
  for query, cluster in zip(queries, own, strict=True):
    taken, chosen = {cluster}, []
    for i in np.argsort(-(descriptors @ query), kind="stable"):
      if clusters[i] not in taken and len(chosen) < number:
        taken.add(clusters[i])
        chosen.append(images[i])
    found.append(chosen + [-1] * (number - len(chosen)))
  return np.array(found)


@pytest.mark.parametrize("block", [1, 7, 64, 300])
@pytest.mark.parametrize("number_of_clusters", [3, 12, 250])
def test_blocks_give_what_the_whole_ranking_gives(block, number_of_clusters):
  random = np.random.default_rng(number_of_clusters)
  queries, pool = _descriptors(random, 20), _descriptors(random, 300)
  own = random.integers(0, number_of_clusters, 20)
  clusters = random.integers(0, number_of_clusters, 300)
  images = random.permutation(1000)[:300]
  nearest = tuples.NearestOfClusters(queries, own, 4)
  for start in range(0, 300, block):
    part = slice(start, start + block)
    nearest.add(images[part], pool[part], clusters[part])
  expected = _one_by_one(queries, own, images, pool, clusters, 4)
  np.testing.assert_array_equal(nearest.images(), expected)
  place = {image: i for i, image in enumerate(images)}
  for q in range(20):
    for image, distance in zip(
      expected[q], nearest.distances()[q], strict=True
    ):
      if image < 0:
        assert np.isnan(distance)
        continue
      straight = np.linalg.norm(queries[q] - pool[place[image]])
      np.testing.assert_allclose(distance, straight, atol=2e-4)


def test_images_without_a_descriptor_are_left_out():
  nearest = tuples.NearestOfClusters(np.eye(2), [0, 1], 1)
  pool = np.array([[np.nan, 0], [0.5, 0.5]], np.float32)
  nearest.add([7, 8], pool, [5, 6])
  np.testing.assert_array_equal(nearest.images(), [[8], [8]])
  nearest.add([9], pool[:1], [9])
  np.testing.assert_array_equal(nearest.images(), [[8], [8]])

"""The embedding of the global descriptor, by learned whitening."""

import functools

import cv2
import faiss
import numpy as np
import tensorflow as tf

from delf.python import progress
from delf.python.training.self_supervised import warps

# On held-out photos 0.02 to 0.3 did not differ.
_SHRINKAGE = 0.1

# Local features of a photo that words are made from.
_SAMPLES = 40

# Views that the whitening is made from, at most four of a photo.
_MOST_VIEWS = 8000


def pooled(backbone, images, longer_side=320):
  """Returns what the embedding layer gets, of each photo.

  Args:
    backbone: CompactBackbone.
    images: list of uint8 [H, W, 3], RGB.
    longer_side: Pixels that each is resized to.

  Returns:
    [N, C] float32.
  """
  function = functools.partial(backbone.pooled, training=False)
  return np.stack([rows[0] for rows in _outputs(function, images, longer_side)])


def _outputs(function, images, longer_side):
  """Yields what a function of pixels [1, H, W, 3] returns of each photo."""
  call = tf.function(
    function,
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
  )
  for image in progress.track(images, "pooling photos"):
    zoom = longer_side / max(image.shape[:2])
    image = cv2.resize(image, None, fx=zoom, fy=zoom)
    yield call((np.float32(image)[None] - 128) / 128).numpy()


def words(backbone, images, longer_side=320, seed=0):
  """Returns words for the pooling: spherical k-means of local features.

  Args:
    backbone: CompactBackbone, trained but for its global descriptor.
    images: list of uint8 [H, W, 3], RGB.
    longer_side: Pixels that each is resized to.
    seed: Of the choice of features.

  Returns:
    [W, C] float32 of unit length.
  """
  rng = np.random.default_rng(seed)

  def local(pixels):
    return backbone.cells_call(pixels, training=False)[0]

  rows = []
  for cells in _outputs(local, images, longer_side):
    cells = cells.reshape(-1, cells.shape[-1])
    lengths = np.linalg.norm(cells, axis=1)
    # Short ones are of what has no texture, and count little.
    longer = np.argsort(-lengths)[: max(1, len(cells) // 2)]
    chosen = rng.choice(longer, min(_SAMPLES, len(longer)), replace=False)
    rows.append(cells[chosen] / (lengths[chosen, None] + 1e-6))
  rows = np.concatenate(rows)
  number = backbone.pool.number
  # Fewer features than words: some words are the same.
  rows = np.resize(rows, [max(len(rows), number), rows.shape[1]])
  clustering = faiss.Kmeans(
    rows.shape[1], number, niter=20, spherical=True, seed=1 + seed
  )
  clustering.cp.min_points_per_centroid = 1
  clustering.train(rows)
  return clustering.centroids


def whitening(first, second, everything, dimension, shrinkage=_SHRINKAGE):
  """Returns a dense layer that whitens what differs in photos of one place.

  The projection of Mikolajczyk and Matas (ICCV 2007), as Radenovic et al.
  (PAMI 2018) use it: differences of matching pairs are made white, then the
  directions in which photos vary most are kept.

  Args:
    first: [N, C] float, one photo of each matching pair.
    second: [N, C] float, the other.
    everything: [M, C] float, all photos.
    dimension: Directions to keep, at most C.
    shrinkage: Added to the variances of pairs, as a share of their mean.

  Returns:
    Kernel [C, dimension] and bias [dimension], float32.
  """
  mean = everything.mean(0)
  within = np.cov((first - second).T, bias=True) / 2
  values, vectors = np.linalg.eigh(within)
  values = np.maximum(values, 0) + shrinkage * values.mean()
  inverse = vectors / np.sqrt(values) @ vectors.T
  _, directions = np.linalg.eigh(np.cov(((everything - mean) @ inverse).T))
  kernel = inverse @ directions[:, ::-1][:, :dimension]
  kernel /= np.sqrt(np.mean(np.square((everything - mean) @ kernel)))
  return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def fit(backbone, photos, pairs, seed=0):
  """Sets what only the global descriptor needs from photos of the same places.

  Words by clustering; then the embedding whitens the differences of photos and
  random views of them, and of the pairs of photos of one place.

  Args:
    backbone: CompactBackbone, trained but for this.
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair that index `photos`.
    seed: Of the random views.
  """
  rng = np.random.default_rng(seed)
  images = [photo.image for photo in photos]
  backbone.pool.words.assign(words(backbone, images, seed=seed))
  rows = pooled(backbone, images)
  times = int(np.clip(_MOST_VIEWS // len(images), 1, 4))
  views = [
    pooled(backbone, [_view(rng, image) for image in images])
    for _ in range(times)
  ]
  first = np.concatenate([rows] * times + [rows[[p.first for p in pairs]]])
  second = np.concatenate([*views, rows[[p.second for p in pairs]]])
  layer = backbone.embedding_layer
  kernel, bias = whitening(first, second, rows, layer.units)
  layer.kernel.assign(kernel)
  layer.bias.assign(bias)


def _view(rng, image):
  """Returns a random view of a photo, square and about as large."""
  height, width = image.shape[:2]
  side = min(height, width)
  middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
  homography = warps.random_view(rng, middle, side, rng.uniform(0.8, 1.5), 0.4)
  return warps.change_pixels(rng, warps.render(image, homography, side), 0.6)


def recall(descriptors, groups):
  """Counts the photos whose nearest other photo is of their group.

  Args:
    descriptors: [N, D] float.
    groups: [N] int; photos alone in their group are no queries.

  Returns:
    Tuple of int, how many, and int, of how many queries.
  """
  units = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
  similarity = units @ units.T
  np.fill_diagonal(similarity, -np.inf)
  nearest = groups[similarity.argmax(1)]
  queries = np.array([(groups == g).sum() > 1 for g in groups])
  return int((nearest == groups)[queries].sum()), int(queries.sum())

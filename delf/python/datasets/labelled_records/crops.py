"""Random crops of photos, and what a network is given of them."""

import cv2
import numpy as np

# Of a crop: its share of the photo's area, and width to height. Source: the
# settings of DELF's training; C. Szegedy et al., "Going deeper with
# convolutions", CVPR 2015.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
# (x - 128) / 128, source: DELF's extraction and training. Exact in float32.
_NORMALISED = ((np.arange(256) - 128) / 128).astype(np.float32)


def draw(seed, first, number):
  """Draws the random numbers of images that follow each other in a stream.

  Those of one image depend on the seed and its position alone.

  Args:
    seed: int from 0, under 2^64.
    first: Position in the stream of the first image.
    number: Number of images.

  Returns:
    [number, 4] float64 in [0, 1).
  """
  # A block of this generator is four numbers, and its counter counts blocks.
  generator = np.random.Philox(key=seed, counter=first)
  return np.random.Generator(generator).random([number, 4])


def window(height, width, random):
  """Chooses a crop: its aspect, then its height, then its place, uniformly.

  As TensorFlow's `sample_distorted_bounding_box` does, by which the original
  crops.

  Args:
    height: Of the photo, in pixels.
    width: Of the photo, in pixels.
    random: [4] float in [0, 1).

  Returns:
    (y, x, height, width) in pixels; the whole photo where it is too long for
    any such crop.
  """
  aspect = _ASPECT[0] + (_ASPECT[1] - _ASPECT[0]) * random[0]
  least, most = (np.sqrt(a * height * width / aspect) for a in _AREA)
  least = max(1, int(np.ceil(least)))
  most = int(min(most, height, width / aspect))
  if most < least:
    return 0, 0, height, width
  crop_height = least + int((most - least + 1) * random[1])
  crop_width = min(max(1, round(crop_height * aspect)), width)
  y = int((height - crop_height + 1) * random[2])
  x = int((width - crop_width + 1) * random[3])
  return y, x, crop_height, crop_width


def to_network(image, size, out):
  """Turns a photo into a network's input.

  Normalised, then resized, bilinear with pixel centres at halves and without
  smoothing, as by `tf.image.resize`.

  Args:
    image: [H, W, 3] uint8, BGR.
    size: Pixels of a side.
    out: [size, size, 3] float32, contiguous, that is filled: RGB, from -1,
      under 1.
  """
  image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  image = cv2.LUT(image, _NORMALISED)
  cv2.resize(image, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)

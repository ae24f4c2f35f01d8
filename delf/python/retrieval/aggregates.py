"""Aggregated images, checked before they are compared."""

import numpy as np

from delf.python import errors

# Values of ASMK that are compared are smaller; at the most they are 1.
_LARGEST = 1e6


def checked(aggregate, options, name=None):
  """Returns the descriptors and words of an image, if they can be right.

  Args:
    aggregate: What has `descriptors` and `words`, or a pair of these: [M, B]
      uint8 packed bits or [M, D] floats, or all of that in one row as in the
      files of the original; [M] integers, ascending, each once.
    options: asmk_scores.AsmkOptions.
    name: Name or path that it is about, for errors.

  Returns:
    [M, B] uint8 or [M, D] float32, C order; and [M] int32. Copied only where
    they are of another type or layout.

  Raises:
    InputError: If types, dimensions or numbers do not fit, a value is not
      finite, or a word is not in the codebook.
  """
  descriptors, words = _pair(aggregate, name)
  words = _words(words, options, name)
  descriptors = np.asarray(descriptors)
  if options.packed and descriptors.dtype != np.uint8:
    raise errors.InputError(
      "packed bits (uint8) for ASMK*", f"{descriptors.dtype}", name
    )
  if not options.packed and descriptors.dtype.kind != "f":
    raise errors.InputError("floats for ASMK", f"{descriptors.dtype}", name)
  shape = (len(words), options.width)
  # An empty image has lost its dimension in the original's files.
  if descriptors.shape != shape and (
    descriptors.ndim > 1 or descriptors.size != shape[0] * shape[1]
  ):
    raise errors.InputError(
      f"descriptors of shape {list(shape)}, a row for each word",
      f"{list(descriptors.shape)}",
      name,
    )
  with np.errstate(over="ignore"):
    values = np.ascontiguousarray(descriptors, options.dtype).reshape(shape)
  # Products of any two are finite then; those of an image have length 1.
  if not options.packed and not (np.abs(values) < _LARGEST).all():
    raise errors.InputError(
      "finite descriptors", f"NaN, infinity or over {_LARGEST:g}", name
    )
  return values, words


def batches(names, images, options, size):
  """Checks images one by one, and puts them together.

  Args:
    names: list of N str, for errors.
    images: Iterable of N aggregates.
    options: asmk_scores.AsmkOptions.
    size: Bytes of descriptors that a batch reaches, but for the last.

  Yields:
    Descriptors and words, a list of each, as `checked` returns them.

  Raises:
    InputError: As `checked`, or if there are more images than names or fewer.
  """
  descriptors, words, left = [], [], size
  for name, image in _together(names, images):
    values, own = checked(image, options, name)
    descriptors.append(values)
    words.append(own)
    left -= values.nbytes
    if left <= 0:
      yield descriptors, words
      descriptors, words, left = [], [], size
  if words:
    yield descriptors, words


def _together(names, images):
  """Yields names and images; raises an InputError if one is missing."""
  images = iter(images)
  for number, name in enumerate(names):
    try:
      yield name, next(images)
    except StopIteration:
      raise errors.InputError(f"{len(names)} images", number) from None
  if next(images, None) is not None:
    raise errors.InputError(f"{len(names)} images", "more")


def _pair(aggregate, name):
  if hasattr(aggregate, "descriptors"):
    return aggregate.descriptors, aggregate.words
  try:
    descriptors, words = aggregate
  except (TypeError, ValueError):
    raise errors.InputError(
      "aggregated descriptors and their words", type(aggregate).__name__, name
    ) from None
  return descriptors, words


def _words(words, options, name):
  if words is None:
    raise errors.InputError("visual words (ASMK)", "none (VLAD)", name)
  words = np.asarray(words)
  if words.ndim != 1 or (words.size and words.dtype.kind not in "iu"):
    raise errors.InputError(
      "words as a list of integers",
      f"{words.dtype} {list(words.shape)}",
      name,
    )
  if not len(words):
    return np.zeros([0], np.int32)
  if words.min() < 0 or words.max() >= options.codebook_size:
    raise errors.InputError(
      f"words of a codebook of {options.codebook_size}",
      f"words {words.min()} to {words.max()}",
      name,
    )
  if np.any(words[:-1] >= words[1:]):
    raise errors.InputError(
      "words in ascending order, each once", "others", name
    )
  return words.astype(np.int32)

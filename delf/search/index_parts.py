"""The two indexes of a collection: of global descriptors, of visual words."""

import functools
import json
import os

import numpy as np

from delf.aggregation import aggregate as aggregation_aggregate
from delf.aggregation import visual_words
from delf.base import errors, files
from delf.extraction import feature_files
from delf.indexes import dense, inverted
from delf.python import whiten

GLOBAL = "global"
WORDS = "words"

# In the metadata of an index of words: which codebook they are of.
_CODEBOOK = "codebook"


class Part:
  """One index of a collection, and which feature files are in it.

  A feature file counts as indexed while it has the size and time that it had;
  these are written after the index, so that a killed run adds some images
  again and never leaves one out.
  """

  name = None  # Of the file, and of the search method.
  extension = None

  def __init__(self, collection):
    """Opens the index, or makes an empty one.

    Args:
      collection: collection.Collection.

    Raises:
      InputError: If the file is not such an index.
    """
    self.collection = collection
    self.path = collection.folder / f"{self.name}.index"
    self._features = os.fspath(collection.features)
    self._stamps_path = collection.folder / f"{self.name}.files.json"
    self.index = self._load() if self.path.exists() else self._make()

  @functools.cached_property
  def _stamps(self):
    # To be changed alone: a search does without.
    return _read_stamps(self._stamps_path)

  def source(self, name):
    """Returns the path of the feature file of an image."""
    return self.collection.feature_path(name, self.extension)

  def read(self, name):
    """Returns what the index takes of one image.

    Args:
      name: Name of the image.

    Raises:
      InputError: If the file is not right.
      FileNotFoundError: If there is none.
    """
    raise NotImplementedError

  def divide(self, names):
    """Returns the names that are to be added, and those to be removed first.

    Args:
      names: Names of images.

    Returns:
      list and list of str.
    """
    there = set(self.index.names)
    todo = [
      name
      for name in names
      if name not in there or self._stamps.get(name) != self._stamp(name)
    ]
    return todo, [name for name in todo if name in there]

  def add(self, names, entries):
    """Adds images to the index in memory.

    Args:
      names: list of str.
      entries: What `read` returned for each.
    """
    stamps = {name: self._stamp(name) for name in names}
    self._add(names, entries)
    self._stamps |= stamps

  def remove(self, names):
    """Removes images from the index in memory."""
    self.index.remove(names)
    for name in names:
      self._stamps.pop(name, None)

  def merge(self, other):
    """Takes the images of another such part into the index in memory.

    Args:
      other: Part of another collection; images that are there are left.
    """
    there = set(self.index.names)
    new = [name for name in other.index.names if name not in there]
    if new:
      self.index.merge(other.index)
      self._stamps |= {name: self._stamp(name) for name in new}

  def save(self):
    """Writes the index whole, or leaves the last one."""
    self.index.save(self.path)
    files.write_bytes(self._stamps_path, json.dumps(self._stamps).encode())

  def _stamp(self, name):
    try:
      # Not of `source`, as a Path of each image takes longer than this.
      found = os.stat(f"{self._features}/{name}{self.extension}")
    except OSError:
      return None
    return [found.st_size, found.st_mtime_ns]


class GlobalPart(Part):
  """The index of global descriptors."""

  name = GLOBAL
  extension = files.DELG_GLOBAL

  def __init__(self, collection):
    self._whitening = collection.whitening()
    super().__init__(collection)

  def read(self, name):
    """Returns [D] float32, or [0] of an image that is too small for one."""
    return self.whitened(feature_files.read_global(self.source(name)))

  def whitened(self, descriptor):
    """Returns a descriptor [D] as it is compared, [K] float32; [0] stays."""
    if self._whitening is None or not descriptor.size:
      return descriptor
    found = whiten.apply_whitening(descriptor[:, None], *self._whitening)
    return found[:, 0].astype(np.float32)

  def _make(self):
    return dense.DenseIndex()

  def _load(self):
    return dense.DenseIndex.load(self.path)

  def _add(self, names, entries):
    self.index.add(names, entries)


class WordsPart(Part):
  """The inverted index of aggregated local features (ASMK, ASMK*)."""

  name = WORDS

  def __init__(self, collection):
    self._config = collection.aggregation_config()
    self.extension = collection.settings.local_extension
    self._words = None
    super().__init__(collection)

  def read(self, name):
    """Returns the aggregation.Aggregated of an image."""
    local = feature_files.read_local(self.source(name))
    return self.aggregate(local.descriptors)

  def _make(self):
    options = inverted.AsmkOptions.from_config(self._config)
    known = {_CODEBOOK: visual_words.fingerprint(self._read_codebook())}
    return inverted.InvertedIndex(options, known)

  def _load(self):
    return inverted.InvertedIndex.load(self.path)

  def _add(self, names, entries):
    self.index.add(names, entries)

  def aggregate(self, descriptors):
    """Returns the aggregation.Aggregated of [N, D] descriptors.

    Raises:
      InputError: If they do not fit the codebook, or the codebook is not the
        one that the index was made with.
    """
    if self._words is None:
      codebook = self._read_codebook()
      _check_codebook(codebook, self.index.metadata, self.path)
      self._words = aggregation_aggregate.Words(codebook)
    options = aggregation_aggregate.options(self._config)
    return aggregation_aggregate.aggregate(self._words, descriptors, options)

  def _read_codebook(self):
    config = self._config
    return visual_words.read_codebook(
      config.codebook_path, config.codebook_size, config.feature_dimensionality
    )


def _check_codebook(codebook, metadata, path):
  """Raises an InputError if an index says that it was made with another."""
  found = visual_words.fingerprint(codebook)
  if metadata.get(_CODEBOOK, found) != found:
    raise errors.InputError(
      "the codebook that the index was made with", "another", path
    )


def kinds(collection):
  """Returns {name: class} of the parts that a collection has."""
  found = {}
  if collection.settings.has_global:
    found[GLOBAL] = GlobalPart
  if collection.has_codebook:
    found[WORDS] = WordsPart
  return found


def parts(collection):
  """Returns the parts that a collection has, opened."""
  return [kind(collection) for kind in kinds(collection).values()]


def _read_stamps(path):
  try:
    found = json.loads(files.read_bytes(path)) if path.exists() else {}
  except (ValueError, RecursionError):
    return {}  # All is added again.
  return found if isinstance(found, dict) else {}

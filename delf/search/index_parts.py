"""The two indexes of a collection: of global descriptors, of visual words."""

import functools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from delf.aggregation import aggregate, visual_words
from delf.base import errors, files
from delf.extraction import output_folder
from delf.indexes import dense, inverted
from delf.python import whiten
from delf.search import collection as collections
from delf.search import queries

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

  name: str  # Of the file, and of the search method.
  extension: str  # Of the feature files.

  def __init__(self, collection: collections.Collection):
    """Open the index, or make an empty one."""
    self.collection = collection
    self.path = collection.folder / f"{self.name}.index"
    self._features = os.fspath(collection.features)
    self._stamps_path = collection.folder / f"{self.name}.files.json"
    existing = self.path.exists()
    self.index = self._kind.load(self.path) if existing else self._make()

  @functools.cached_property
  def _stamps(self):
    # Read only to change the index: a search does without.
    path = self._stamps_path
    try:
      content = json.loads(files.read_bytes(path)) if path.exists() else {}
    except (ValueError, RecursionError):
      return {}  # All is added again.
    return content if isinstance(content, dict) else {}

  def source(self, name: str) -> str:
    """Return the path of the feature file of an entry."""
    return os.fspath(self.collection.feature_path(name, self.extension))

  def read(self, name: str) -> Any:
    """Return what the index takes of one entry."""
    raise NotImplementedError

  def read_query(self, query: queries.Query) -> Any:
    """Return the same of a query; InputError if it has no features."""
    raise NotImplementedError

  def divide(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names to be added, and those of them to be removed first."""
    known = set(self.index.names)
    todo = [
      name
      for name in names
      if name not in known or self._stamps.get(name) != self._stamp(name)
    ]
    return todo, [name for name in todo if name in known]

  def add(self, names: Sequence[str], entries: Sequence[Any]) -> None:
    """Add entries, as `read` returned them, to the index in memory."""
    stamps = {name: self._stamp(name) for name in names}
    self.index.add(names, entries)
    self._stamps |= stamps

  def remove(self, names: Sequence[str]) -> None:
    """Remove entries from the index in memory."""
    self.index.remove(names)
    for name in names:
      self._stamps.pop(name, None)

  def merge(self, other: "Part") -> None:
    """Take the entries of another collection, unless they are in already."""
    known = set(self.index.names)
    new = [name for name in other.index.names if name not in known]
    if new:
      self.index.merge(other.index)
      self._stamps |= {name: self._stamp(name) for name in new}

  def save(self) -> None:
    """Write the index whole, or leave the last one."""
    self.index.save(self.path)
    files.write_bytes(self._stamps_path, json.dumps(self._stamps).encode())

  def _stamp(self, name):
    try:
      # Not of `source`, as a Path of each image takes longer than this.
      status = os.stat(f"{self._features}/{name}{self.extension}")
    except OSError:
      return None
    return [status.st_size, status.st_mtime_ns]


class GlobalPart(Part):
  """The index of global descriptors."""

  name = GLOBAL
  extension = files.DELG_GLOBAL
  _kind = dense.DenseIndex

  def __init__(self, collection: collections.Collection):
    """Open the index, or make an empty one."""
    self._whitening = collection.whitening()
    super().__init__(collection)

  def read(self, name: str) -> np.ndarray:
    """Return [D] float32 as it is compared; [0] of too small an image."""
    return self._whiten(output_folder.read_global(self.source(name)))

  def read_query(self, query: queries.Query) -> np.ndarray:
    """Return [D] float32 as it is compared."""
    descriptor = query.global_descriptor()
    if not descriptor.size:
      raise errors.InputError(
        "a photo large enough for a global descriptor", "one that is not"
      )
    return self._whiten(descriptor)

  def _whiten(self, descriptor):
    if self._whitening is None or not descriptor.size:
      return descriptor
    white = whiten.apply_whitening(descriptor[:, None], *self._whitening)
    return white[:, 0].astype(np.float32)

  def _make(self):
    return dense.DenseIndex()


class WordsPart(Part):
  """The inverted index of aggregated local features (ASMK, ASMK*)."""

  name = WORDS
  _kind = inverted.InvertedIndex

  def __init__(self, collection: collections.Collection):
    """Open the index, or make an empty one."""
    self._config = collection.aggregation_config()
    self.extension = collection.settings.local_extension
    super().__init__(collection)

  def read(self, name: str) -> aggregate.Aggregated:
    """Return the aggregate of the local features."""
    return self._aggregate(output_folder.read_local(self.source(name)))

  def read_query(self, query: queries.Query) -> aggregate.Aggregated:
    """Return the aggregate of the local features, of which there are some."""
    local = query.local_features(self.extension)
    if not len(local):
      raise errors.InputError("local features", "none")
    return self._aggregate(local)

  def _aggregate(self, local):
    options = aggregate.options(self._config)
    return aggregate.aggregate(self._words, local.descriptors, options)

  @functools.cached_property
  def _words(self):
    codebook = self._read_codebook()
    own = visual_words.fingerprint(codebook)
    if self.index.metadata.get(_CODEBOOK, own) != own:
      raise errors.InputError(
        "the codebook that the index was made with", "another", self.path
      )
    return visual_words.Words(codebook)

  def _read_codebook(self):
    config = self._config
    return visual_words.read_codebook(
      config.codebook_path, config.codebook_size, config.feature_dimensionality
    )

  def _make(self):
    options = inverted.AsmkOptions.from_config(self._config)
    metadata = {_CODEBOOK: visual_words.fingerprint(self._read_codebook())}
    return inverted.InvertedIndex(options, metadata)


def kinds(collection: collections.Collection) -> dict[str, type[Part]]:
  """Return the classes of the parts that a collection has, by name."""
  both = {
    GLOBAL: collection.settings.has_global and GlobalPart,
    WORDS: collection.has_codebook and WordsPart,
  }
  return {name: kind for name, kind in both.items() if kind}


def parts(collection: collections.Collection) -> list[Part]:
  """Return the parts that a collection has, opened."""
  return [kind(collection) for kind in kinds(collection).values()]

"""Opening a collection to add to it; what it was made with must stay."""

import dataclasses

import numpy as np

from delf.python import errors, whiten
from delf.python.pipelines import collection, collection_words


def open_or_make(found, config, options):
  """Makes a collection, or checks that the one there is such a one.

  Args:
    found: collection.Collection that is wanted.
    config: delf_config_pb2.DelfConfig, or None where it is not known.
    options: build_index.BuildOptions.

  Returns:
    collection.Collection.

  Raises:
    InputError: If the one there was made with something else, or the one that
      is wanted has nothing to be searched by.
  """
  new = not collection.exists(found.folder)
  if not new:
    there = collection.open_folder(found.folder)
    for field in dataclasses.fields(there.settings):
      old = getattr(there.settings, field.name)
      wanted = getattr(found.settings, field.name)
      if old != wanted:
        raise errors.InputError(
          f"what the index was made with, {field.name} {old!r}",
          f"{wanted!r}",
          found.folder,
        )
  wanted = collection_words.choose(options.aggregation, options.codebook)
  if wanted is not None:
    collection_words.add(found, wanted)
  if options.whitening:
    _add_whitening(found, options.whitening, new)
  if not (found.settings.has_global or found.has_codebook):
    raise errors.InputError(
      "global descriptors, or --codebook to search by local features",
      "local features alone",
      found.folder,
    )
  if new:
    found.write(config)
  elif config is not None:
    _check_config(found, config)
  return found


def _check_config(found, config):
  """Gives an index of features its configuration, or compares that it has."""
  there = found.delf_config()
  if there is None:
    found.write(config)
  elif there != config:
    names = {field.name for field, _ in there.ListFields()}
    names |= {field.name for field, _ in config.ListFields()}
    differ = [n for n in names if getattr(there, n) != getattr(config, n)]
    raise errors.InputError(
      "the model and settings that the index was made with",
      f"another {', '.join(sorted(differ))}",
      found.folder,
    )


def _add_whitening(found, path, new):
  """Gives a new collection its whitening; checks that another has that one."""
  wanted = whiten.read_whitening(path)
  if not found.settings.has_global:
    raise errors.InputError(
      "global descriptors, which a whitening is for", "none", found.folder
    )
  if new:
    found.write_whitening(*wanted)
    return
  there = found.whitening() or (None, None)
  if not all(map(np.array_equal, there, wanted)):
    raise errors.InputError(
      "the whitening that the index was made with", "another", path
    )

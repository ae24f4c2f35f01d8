"""Files of aggregates, and what a configuration says of them.

A VLAD is a DatumProto [K * D] float. Of ASMK and ASMK* there are a DatumPair of
the aggregated descriptors, [M * D] float or [M * ceil(D / 8)] bytes as uint32,
and their words, [M] uint32, ascending.
"""

import os

import numpy as np

from delf.python import aggregation, datum_io, errors


def options(config):
  """Returns what a configuration asks for.

  Args:
    config: AggregationConfig.

  Returns:
    aggregation.AggregateOptions.

  Raises:
    InputError: If its type is none.
  """
  return aggregation.AggregateOptions(
    kind=kind_of(config),
    num_assignments=config.num_assignments,
    regional=config.use_regional_aggregation,
    normalize=config.use_l2_normalization,
  )


def kind_of(config):
  """Returns the kind (`aggregation.KINDS`) of an AggregationConfig.

  Raises:
    InputError: If its type is none.
  """
  kinds = {
    config.VLAD: aggregation.VLAD,
    config.ASMK: aggregation.ASMK,
    config.ASMK_STAR: aggregation.ASMK_STAR,
  }
  if config.aggregation_type not in kinds:
    raise errors.InputError(
      "an aggregation_type of VLAD, ASMK or ASMK_STAR",
      f"invalid aggregation type {config.aggregation_type}",
    )
  return kinds[config.aggregation_type]


def extension(config):
  """Returns the extension of the files of an AggregationConfig, `.rasmk`."""
  regional = "r" if config.use_regional_aggregation else ""
  return f".{regional}{kind_of(config)}"


def write(path, aggregated):
  """Writes an aggregation.Aggregated whole or not at all.

  Args:
    path: Path with the extension of its kind.
    aggregated: aggregation.Aggregated.
  """
  if aggregated.words is None:
    datum_io.WriteToFile(aggregated.descriptors, path)
  else:
    datum_io.WritePairToFile(
      aggregated.descriptors.reshape(-1),
      aggregated.words.astype(np.uint32),
      path,
    )


def read(path, dimension=None, size=None):
  """Reads an aggregate.

  Args:
    path: Path whose extension says the kind.
    dimension: D that it must be of, or None for any.
    size: K that its words must be under, or None for any.

  Returns:
    aggregation.Aggregated. Without words its descriptors are [0, D], or [0, 0]
    where no dimension is given.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut, of another format, or of another dimension or
      codebook, or has values that are not finite.
  """
  kind = _kind_of_path(path)
  if kind == aggregation.VLAD:
    vlad = datum_io.ReadFromFile(path)
    _check_vlad(vlad, dimension, size, path)
    return aggregation.Aggregated(vlad)
  descriptors, words = datum_io.ReadPairFromFile(path)
  _check_words(words, size, path)
  dtype = np.uint8 if kind == aggregation.ASMK_STAR else np.float32
  width = None
  if dimension is not None:
    width = -(-dimension // 8) if dtype == np.uint8 else dimension
  descriptors = _rows(descriptors, len(words), width, path)
  _check_values(descriptors, dtype, path)
  return aggregation.Aggregated(
    descriptors.astype(dtype, copy=False), words.astype(np.int32)
  )


def _kind_of_path(path):
  name = os.path.splitext(os.fspath(path))[1]
  kinds = {f".{r}{kind}": kind for r in ("", "r") for kind in aggregation.KINDS}
  if name not in kinds:
    raise errors.InputError(f"a name ending in {', '.join(kinds)}", name, path)
  return kinds[name]


def _check_vlad(vlad, dimension, size, path):
  if vlad.ndim != 1 or vlad.dtype != np.float32:
    raise errors.InputError(
      "a VLAD of shape [K * D] float", _described(vlad), path
    )
  if dimension and size and vlad.size != dimension * size:
    raise errors.InputError(
      f"a VLAD of {size} words of dimension {dimension}, {size * dimension}",
      f"{vlad.size} values",
      path,
    )
  _check_values(vlad, np.float32, path)


def _check_words(words, size, path):
  if words.ndim != 1 or words.dtype != np.uint32:
    raise errors.InputError("words [M] uint32", _described(words), path)
  words = words.astype(np.int64)
  limit = min(size or 2**31, 2**31)
  if np.any(np.diff(words) <= 0) or np.any(words >= limit):
    raise errors.InputError(
      f"ascending words under {limit}", f"{_some(words)}", path
    )


def _rows(descriptors, number, width, path):
  """Returns flat descriptors as [number, width]; any width if it is None."""
  flat = descriptors.reshape(-1)
  if width is None:
    width = flat.size // number if number else 0
  if flat.size != number * width:
    raise errors.InputError(
      f"{number} words of {width} values each", f"{flat.size} values", path
    )
  return flat.reshape(number, width)


def _check_values(values, dtype, path):
  if dtype == np.uint8:
    if values.dtype != np.uint32 or np.any(values > 255):
      raise errors.InputError("bytes of bits", _described(values), path)
  elif values.dtype != np.float32 or not np.isfinite(values).all():
    raise errors.InputError("finite floats", _described(values), path)


def _described(array):
  return f"{array.dtype} of shape {list(array.shape)}, {_some(array)}"


def _some(array):
  words = ", ".join(f"{value:g}" for value in array.reshape(-1)[:5])
  return f"{words} ..." if array.size > 5 else words or "none"

"""Layers and variables of a model by their paths in its checkpoints."""

from __future__ import annotations

import typing
from collections.abc import Iterable

if typing.TYPE_CHECKING:
  import keras


_SHOWN = 8


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
  """Return the variables of a built model by path.

  A path joins the attributes that lead to the layer and the variable's name:
  `backbone/l2a/conv2a/kernel`. Layers that no attribute holds go by their
  names.

  Raises:
    RuntimeError: If two variables share a path, or one has none.
  """
  paths = {}
  for path, layer in layers_by_path(model).items():
    below = {id(v) for child in layer._layers for v in child.weights}
    for variable in (v for v in layer.weights if id(v) not in below):
      key = f"{path}/{variable.name}" if path else variable.name
      if paths.setdefault(key, variable) is not variable:
        raise RuntimeError(f"two variables of {model.name} are {key}")
  reached = {id(variable) for variable in paths.values()}
  lost = [v.path for v in model.weights if id(v) not in reached]
  if lost:
    raise RuntimeError(f"no path leads to {lost} of {model.name}")
  return paths


def layers_by_path(model: keras.Model) -> dict[str, keras.layers.Layer]:
  """Return a built model, at path "", and all layers in it by path."""
  paths, seen, queue = {"": model}, {id(model)}, [("", model)]
  for path, layer in queue:  # Breadth first: it grows meanwhile.
    for name, child in _children(layer):
      if id(child) not in seen:
        seen.add(id(child))
        child_path = f"{path}/{name}" if path else name
        paths[child_path] = child
        queue.append((child_path, child))
  return paths


def _children(layer):
  import keras

  children = []
  for name, value in vars(layer).items():
    if name.startswith("_"):
      continue
    items = [(name, value)]
    if isinstance(value, list | tuple):
      items = [(f"{name}/{index}", item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
      items = [(f"{name}/{key}", item) for key, item in value.items()]
    children += [x for x in items if isinstance(x[1], keras.layers.Layer)]
  named = {id(child) for _, child in children}
  return children + [(c.name, c) for c in layer._layers if id(c) not in named]


def listed(names: Iterable[str]) -> str:
  """Return names as text; of many, the first ones and their number."""
  names = list(names)
  text = ", ".join(names[:_SHOWN])
  return text if len(names) <= _SHOWN else f"{text}, ... ({len(names)} in all)"

"""Layers and variables of a model by their paths in its checkpoints."""

import keras

_SHOWN = 8


def variables_by_path(model):
  """Returns the variables of a built model by path.

  A path is made of the attributes that lead to the layer and of the variable's
  name: `backbone/l2a/conv2a/kernel`. Layers that no attribute holds go by their
  names.

  Raises:
    RuntimeError: If two variables have one path, or one has none.
  """
  paths = {}
  for path, layer in layers_by_path(model).items():
    for variable in _own_variables(layer):
      key = f"{path}/{variable.name}" if path else variable.name
      if paths.setdefault(key, variable) is not variable:
        raise RuntimeError(f"two variables of {model.name} are {key}")
  reached = {id(variable) for variable in paths.values()}
  lost = [v.path for v in model.weights if id(v) not in reached]
  if lost:
    raise RuntimeError(f"no path leads to {lost} of {model.name}")
  return paths


def layers_by_path(model):
  """Returns a built model, at path "", and all layers in it by path."""
  found = {"": model}
  seen = {id(model)}
  queue = [("", model)]
  while queue:
    path, layer = queue.pop(0)
    for name, child in _children(layer):
      if id(child) not in seen:
        seen.add(id(child))
        child_path = f"{path}/{name}" if path else name
        found[child_path] = child
        queue.append((child_path, child))
  return found


def listed(names):
  """Returns names as text; of many, the first ones and how many there are."""
  names = list(names)
  words = ", ".join(names[:_SHOWN])
  return (
    words if len(names) <= _SHOWN else f"{words}, ... ({len(names)} in all)"
  )


def _children(layer):
  children = []
  for name, value in vars(layer).items():
    if name.startswith("_"):
      continue
    if isinstance(value, keras.layers.Layer):
      children.append((name, value))
    elif isinstance(value, list | tuple):
      children += [
        (f"{name}/{index}", item)
        for index, item in enumerate(value)
        if isinstance(item, keras.layers.Layer)
      ]
    elif isinstance(value, dict):
      children += [
        (f"{name}/{key}", item)
        for key, item in value.items()
        if isinstance(item, keras.layers.Layer)
      ]
  named = {id(child) for _, child in children}
  held = [c for c in layer._layers if id(c) not in named]
  return children + [(child.name, child) for child in held]


def _own_variables(layer):
  below = {id(v) for child in layer._layers for v in child.weights}
  return [v for v in layer.weights if id(v) not in below]

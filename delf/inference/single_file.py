"""Extraction with a network in one file, for a runtime other than TensorFlow.

The file has the network of one scale; the pyramid of scales, the selection and
the pooling around it are NumPy code, for each runtime the same.
"""

import os
import pathlib
import re
import threading
import typing

import cv2
import numpy as np

from delf.base import concurrency, errors
from delf.formats import network_files
from delf.inference import tensors

# Boxes that are compared at once with each other and with those that stay.
_BLOCK = 1000

# Of the bound on the distance of two boxes, which is rounded.
_SLACK = 1.001


class Candidates(typing.NamedTuple):
  """Local features of one scale, as positions on its feature map.

  Attributes:
    boxes: [N, 4] float32, receptive boxes (ymin, xmin, ymax, xmax) in pixels.
    scores: [N] float32, attention.
    cells: [N] int, position on the map, row by row.
    features: [Y * X, D] float32, the map, which is not copied.
    scale: float32, inverse of the image scale.
  """

  boxes: np.ndarray
  scores: np.ndarray
  cells: np.ndarray
  features: np.ndarray
  scale: np.float32


class Local(typing.NamedTuple):
  """Local features of an image.

  Attributes:
    boxes: [N, 4] float32, receptive boxes (ymin, xmin, ymax, xmax) in pixels.
    features: [N, D] float32.
    scales: [N] float32, inverse of the image scale.
    scores: [N] float32, attention.
  """

  boxes: np.ndarray
  features: np.ndarray
  scales: np.ndarray
  scores: np.ndarray


def normalised(image):
  """Returns float32 [H, W, 3], (value - 128) / 128, of an image in uint8."""
  return (image.astype(np.float32) - np.float32(128)) / np.float32(128)


def resize(pixels, scale):
  """Returns [1, h, w, 3] float32: pixels [H, W, 3] at a scale, bilinear.

  Sides are rounded half to even, in float32. Pixel centres are at halves and
  nothing is smoothed before, as `tf.image.resize` has it.
  """
  shape = np.array(pixels.shape[:2], np.float32)
  height, width = np.round(shape * np.float32(scale)).astype(int)
  if (height, width) == pixels.shape[:2]:
    return pixels[np.newaxis]
  size = (int(width), int(height))
  return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)[np.newaxis]


def candidates(maps, scale, threshold, receptive):
  """Returns the local features of one scale that pass the threshold.

  Args:
    maps: Attention, [1, y, x, 1] float32; features, [1, y, x, D] float32; and
      perhaps offsets, [1, y, x, 2] float32: (y, x) of each feature from the
      centre of its cell, in pixels at this scale.
    scale: Image scale.
    threshold: The least attention. What is not a number passes, so that it is
      seen.
    receptive: (size, stride, padding) of a cell, in pixels at this scale.

  Returns:
    Candidates, row by row.
  """
  attention, features, *offsets = maps
  size, stride, padding = np.float32(receptive)
  scale = np.float32(scale)
  scores = attention.reshape(-1)
  cells = np.flatnonzero(~(scores < np.float32(threshold)))
  corners = np.stack(np.divmod(cells, features.shape[2]), axis=1)
  least = stride * corners.astype(np.float32) - padding
  boxes = np.concatenate([least, least + (size - np.float32(1))], axis=1)
  if offsets:
    boxes += np.tile(offsets[0].reshape(-1, 2)[cells], [1, 2])
  return Candidates(
    boxes=boxes / scale,
    scores=scores[cells],
    cells=cells,
    features=features.reshape(-1, features.shape[-1]),
    scale=np.float32(1) / scale,
  )


def select(found, most, iou):
  """Returns the best features, best first; of equal ones the first ones.

  Args:
    found: list of Candidates, of one or more scales.
    most: The most to return.
    iou: Overlap of two boxes over which the weaker one goes; from 1.0 on, all
      stay.

  Returns:
    Local.
  """
  boxes = np.concatenate([each.boxes for each in found])
  scores = np.concatenate([each.scores for each in found])
  ranks = np.where(np.isnan(scores), np.inf, scores)
  order = np.argsort(-ranks, kind="stable")
  if iou >= 1.0:
    kept = order[:most]
  else:
    kept = order[_suppress(boxes[order], most, iou)]
  scales = [np.full(len(each.cells), each.scale) for each in found]
  return Local(
    boxes=boxes[kept],
    features=_features(found, kept),
    scales=np.concatenate(scales)[kept],
    scores=scores[kept],
  )


def _features(found, kept):
  """Returns [K, D] float32, the features at positions in all candidates."""
  values = np.empty([len(kept), found[0].features.shape[1]], np.float32)
  start = 0
  for each in found:
    end = start + len(each.cells)
    rows = np.flatnonzero((kept >= start) & (kept < end))
    values[rows] = each.features[each.cells[kept[rows] - start]]
    start = end
  return values


def _suppress(boxes, most, iou):
  """Returns the positions that non-maximum suppression leaves, at most `most`.

  A box goes if it overlaps one before it that stays by more than `iou`
  (intersection over union).

  Args:
    boxes: [N, 4] float32, best first.
    most: int.
    iou: float, less than 1.
  """
  kept = np.zeros(0, int)
  for start in range(0, len(boxes), _BLOCK):
    block = np.arange(start, min(start + _BLOCK, len(boxes)))
    gone, _ = _overlapping(boxes[block], boxes[kept], iou)
    block = np.delete(block, gone)
    pairs = _overlapping(boxes[block], boxes[block], iou)
    kept = np.concatenate([kept, block[_independent(len(block), *pairs)]])
    if len(kept) >= most:
      break
  return kept[:most]


def _overlapping(boxes, others, iou):
  """Returns positions of pairs that overlap by more than `iou`, two [P] int."""
  first, second = _near(boxes, others, iou)
  one, other = boxes[first], others[second]
  shared = np.float32(1)
  for side in (0, 1):
    least = np.maximum(one[:, side], other[:, side])
    most = np.minimum(one[:, side + 2], other[:, side + 2])
    shared = shared * np.maximum(most - least, 0)
  areas, other_areas = (
    (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (one, other)
  )
  # As TensorFlow rounds it, which tells at equality.
  joined = areas + other_areas - shared
  over = np.divide(shared, joined, out=np.zeros_like(joined), where=joined > 0)
  over = over > np.float32(iou)
  return first[over], second[over]


def _near(boxes, others, iou):
  """Returns positions of pairs with all that may overlap by more than `iou`.

  Along each axis, sides a <= b at a distance d overlap by at most a / b, and by
  (s - d) / (s + d) with s = (a + b) / 2. Where that is more than `iou`, d is
  less than s (1 - iou) / (1 + iou), and the other side less than a / iou.
  """
  centres, other_centres = (b[:, :2] + b[:, 2:] for b in (boxes, others))
  sides, other_sides = (
    (b[:, 2:] - b[:, :2]).max(axis=1, initial=0) for b in (boxes, others)
  )
  # Twice the distance, as centres are.
  reach = np.minimum(
    sides * ((1 - iou) / max(iou, 1e-9)), sides + other_sides.max(initial=0)
  )
  reach *= _SLACK
  order = np.argsort(other_centres[:, 0])
  rows = other_centres[order, 0]
  low = np.searchsorted(rows, centres[:, 0] - reach)
  counts = np.searchsorted(rows, centres[:, 0] + reach, "right") - low
  first = np.repeat(np.arange(len(boxes)), counts)
  ends = np.cumsum(counts)
  second = order[np.arange(len(first)) + np.repeat(low - ends + counts, counts)]
  across = np.abs(centres[first, 1] - other_centres[second, 1])
  near = np.flatnonzero(across <= reach[first])
  return first[near], second[near]


def _independent(number, first, second):
  """Returns [number] bool: what stays if each takes away those after it.

  Args:
    number: int.
    first: [P] int, of pairs that cannot both stay, each in both orders.
    second: [P] int, the other one.
  """
  earlier = second < first
  first, second = first[earlier], second[earlier]
  stays = np.zeros(number, bool)
  undecided = ~stays
  while undecided.any():
    # What nothing undecided before it can take away stays, all such at once.
    free = undecided.copy()
    free[first] = False
    stays |= free
    undecided &= ~free
    undecided[first[free[second]]] = False
    open_ = undecided[first] & undecided[second]
    first, second = first[open_], second[open_]
  return stays


# An error of a runtime may go on; the first words say what happened.
_LONGEST_REASON = 300


class SingleFileModel:
  """A network and what its settings say is around it.

  It is used as `saved_model.ExtractionModel` is.

  Attributes:
    folder: pathlib.Path of the file.
    device_words: Words for what it runs on.
    inputs: Names of what extraction can set.
    outputs: Names of what it can ask for.
    signatures: None of those that SavedModels have: an empty list.
  """

  signatures = ()

  def __init__(self, path, settings, run, device_words="CPU"):
    """Wraps a network.

    Args:
      path: Of the file, for errors.
      settings: network_io.Settings.
      run: Function of images [1, h, w, 3] float32, normalised, and names of
        outputs (of `settings.outputs`) that returns a dict of them: attention
        [1, y, x, 1], features [1, y, x, D], offsets [1, y, x, 2], descriptor
        [1, D'].
      device_words: Words for what it runs on.
    """
    self.folder = pathlib.Path(path)
    self.device_words = device_words
    self._settings = settings
    self._network = run
    self._maps = [network_files.ATTENTION, network_files.FEATURES]
    if settings.has_offsets:
      self._maps.append(network_files.OFFSETS)
    self.inputs, self.outputs = _names(settings)

  def output_size(self, name):
    """Returns the last dimension of an output, or None if it is not known."""
    is_local = name in tensors.LOCAL_OUTPUTS
    return self._settings.local_size if is_local else self._settings.global_size

  def prepare(self, request, batch=False):
    """Finds what must run for a request; see `ExtractionModel.prepare`.

    Args:
      request: tensors.Request.
      batch: Whether for several images of one size, which there is not.

    Returns:
      Function of an image, [H, W, 3] uint8, as there; for a batch None.

    Raises:
      InputError: If the network lacks what the request needs, or it for the
        network; from the function, if an image is too small for it.
    """
    tensors.check(request, self.inputs, self.outputs, self.folder)
    if batch:
      return None

    def extract(image):
      tensors.check_size(image, self.inputs, request)
      arrays = self._extract(normalised(image), request)
      return tensors.tidy(arrays, self.inputs, request)

    return extract

  def _extract(self, pixels, request):
    """Returns the arrays of one image, named as those of SavedModels."""
    settings = self._settings
    fixed = settings.input_scales
    scales = request.image_scales if fixed is None else fixed
    chosen = set(request.global_scales or ())
    if fixed is not None:
      chosen = set(range(len(fixed)))
    found, descriptors = [], []
    for index, scale in enumerate(scales):
      is_global = request.use_global and index in chosen
      if not (request.use_local or is_global):
        continue
      outputs = self._run(resize(pixels, scale), request, is_global)
      if request.use_local:
        maps = [outputs[name] for name in self._maps]
        found.append(
          candidates(maps, scale, request.abs_thres, settings.receptive)
        )
      if is_global:
        descriptors.append(outputs[network_files.DESCRIPTOR][0])
    arrays = {}
    if request.use_local:
      local = select(found, request.max_feature_num, settings.iou)
      arrays |= local._asdict()
    if request.use_global:
      arrays |= self._pooled(np.stack(descriptors))
    return arrays

  def _run(self, images, request, is_global):
    """Runs the network for the parts that are asked for."""
    names = []
    if request.use_local:
      names += self._maps
    if is_global:
      names.append(network_files.DESCRIPTOR)
    try:
      outputs = self._network(images, names)
    except Exception as error:  # Runtimes raise whatever they have.
      reason = " ".join(str(error).split())[:_LONGEST_REASON]
      raise errors.InputError(
        "an image that the model takes", f"another ({reason})", self.folder
      ) from error
    _check_shapes(outputs, self.folder)
    return outputs

  def _pooled(self, descriptors):
    """Returns the global output of descriptors [G, D]."""
    settings = self._settings
    if settings.pool_type == "average":
      descriptors = descriptors.mean(axis=0)
    elif settings.pool_type == "sum":
      descriptors = descriptors.sum(axis=0)
    if settings.normalize:
      descriptors = tensors.l2_normalized(descriptors)
    name = tensors.GLOBAL_OUTPUTS[0 if settings.pool_type == "None" else 1]
    return {name: descriptors}


def _check_shapes(outputs, path):
  """Raises InputError if outputs are not maps of one size, or a descriptor."""
  shapes = {name: np.shape(value) for name, value in outputs.items()}
  rows, columns, *_ = (*shapes.get(network_files.ATTENTION, ())[1:3], 0, 0)
  wanted = {
    network_files.ATTENTION: (1, rows, columns, 1),
    network_files.FEATURES: (1, rows, columns, None),
    network_files.OFFSETS: (1, rows, columns, 2),
    network_files.DESCRIPTOR: (1, None),
  }
  for name, shape in shapes.items():
    fits = len(shape) == len(wanted[name]) and all(
      one in (None, other)
      for one, other in zip(wanted[name], shape, strict=True)
    )
    if not fits:
      words = ", ".join("any" if n is None else str(n) for n in wanted[name])
      raise errors.InputError(f"{name} of shape [{words}]", list(shape), path)


def _names(settings):
  """Returns names of inputs and outputs, as the SavedModel would have them."""
  inputs, outputs = [tensors.IMAGE], []
  if settings.input_scales is None:
    inputs.append(tensors.SCALES)
  if settings.form != network_files.GLOBAL:
    inputs += [tensors.THRESHOLD, tensors.MOST]
    outputs += tensors.LOCAL_OUTPUTS
  if settings.form != network_files.LOCAL:
    if settings.input_scales is None:
      inputs.append(tensors.INDICES)
    pooled = settings.pool_type != "None"
    outputs.append(tensors.GLOBAL_OUTPUTS[1 if pooled else 0])
  return inputs, outputs


_CPU, _GPU = "CPUExecutionProvider", "CUDAExecutionProvider"

# Of ONNX Runtime's levels: errors alone, which it raises as well.
_ERRORS = 3


def load(path, device=None):
  """Loads a network that `delf export` wrote.

  Args:
    path: pathlib.Path of the file.
    device: "cpu", or "gpu" or "gpu:N" where ONNX Runtime has CUDA, or None for
      the best there is.

  Returns:
    single_file.SingleFileModel.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or damaged, or ONNX Runtime is
      not installed, or there is no such device.
  """
  settings = network_files.read_settings(path)
  runtime = errors.load("onnxruntime", "onnx")
  provider, words = _device(runtime.get_available_providers(), device)
  session = _open(runtime, path, provider)
  outputs = {output.name for output in session.get_outputs()}
  if outputs != set(settings.outputs):
    raise errors.InputError(
      f"a network with the outputs {', '.join(settings.outputs)}",
      ", ".join(sorted(outputs)),
      path,
    )
  options = runtime.RunOptions()
  # What only the descriptor needs is not computed for local features alone.
  options.only_execute_path_to_fetches = True
  options.log_severity_level = _ERRORS

  def run(images, names):
    found = session.run(names, {network_files.IMAGES: images}, options)
    return dict(zip(names, found, strict=True))

  return SingleFileModel(path, settings, run, words)


def _open(runtime, path, provider):
  options = runtime.SessionOptions()
  options.intra_op_num_threads = concurrency.core_count()
  options.log_severity_level = _ERRORS
  # Threads that wait while they run are a loss where processors are shared:
  # twice the time beside a training (benchmarks/export_formats.py).
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  try:
    # By its bytes, so that it cannot name other files to be read.
    return runtime.InferenceSession(
      path.read_bytes(), options, providers=[provider]
    )
  except Exception as error:  # It raises classes of its own.
    reason = " ".join(str(error).split())
    raise errors.InputError(
      "a whole ONNX file", f"one that cannot be read ({reason})", path
    ) from None


def _device(providers, device):
  """Returns the provider for a device, as its list takes it, and words."""
  has_gpu = _GPU in providers
  match = re.fullmatch(
    r"/?(?:device:)?(cpu|gpu)(?::(\d+))?", str(device or "").strip().lower()
  )
  kind = match[1] if match else None
  if device is None:
    kind = "gpu" if has_gpu else "cpu"
  if kind is None or (kind == "gpu" and not has_gpu):
    known = "CPU:0, GPU:N" if has_gpu else "CPU:0"
    raise errors.InputError(f"a device, one of {known}", repr(device))
  if kind == "cpu":
    return _CPU, "CPU (ONNX Runtime)"
  number = int(match[2] or 0) if match else 0
  return (_GPU, {"device_id": number}), f"GPU:{number} (ONNX Runtime)"


def load_tflite_model(path, device=None):
  """Loads a network that `delf export` wrote.

  Args:
    path: pathlib.Path of the file.
    device: "cpu" or None.

  Returns:
    single_file.SingleFileModel. Several threads take turns.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or damaged, or LiteRT is not
      installed, or the device is another one.
  """
  settings = network_files.read_settings(path)
  if device is not None and str(device).lower().strip("/") not in (
    "cpu",
    "cpu:0",
  ):
    raise errors.InputError("a device, one of CPU:0", repr(device))
  runtime = errors.load("ai_edge_litert.interpreter", "tflite")
  runners = _open_tflite_model(runtime, path)
  lock = threading.Lock()
  if {n for _, outputs in runners for n in outputs} != set(settings.outputs):
    raise errors.InputError(
      f"a network with the outputs {', '.join(settings.outputs)}",
      ", ".join(sorted({n for _, outputs in runners for n in outputs})),
      path,
    )

  def run(images, names):
    with lock:
      for runner, outputs in runners:
        if set(names) <= set(outputs):
          return runner(**{network_files.IMAGES: images})
    raise ValueError(f"no function for {names}")

  return SingleFileModel(path, settings, run, "CPU (LiteRT)")


def _open_tflite_model(runtime, path):
  """Returns (function, names of its outputs), least work first."""
  try:
    interpreter = runtime.Interpreter(
      model_path=os.fspath(path), num_threads=concurrency.core_count()
    )
    signatures = interpreter.get_signature_list()
    return sorted(
      (
        (interpreter.get_signature_runner(name), tuple(signature["outputs"]))
        for name, signature in signatures.items()
      ),
      key=lambda each: len(each[1]),
    )
  except (ValueError, RuntimeError) as error:
    reason = " ".join(str(error).split())
    raise errors.InputError(
      "a whole TFLite file", f"one that cannot be read ({reason})", path
    ) from None

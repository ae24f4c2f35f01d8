"""Extraction with a network in one file, of ONNX or TFLite.

The network computes one scale. The pyramid of scales, the selection and the
pooling are NumPy code, the same for all runtimes.
"""

import os
import pathlib
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from delf.base import concurrency, errors
from delf.formats import network_files
from delf.inference import tensors

# Boxes per step of the non-maximum suppression.
_BLOCK = 1000
_CPU, _GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS = 3  # ONNX Runtime's log level of errors, which it also raises.


class Candidates(NamedTuple):
  """Local features of one scale, as positions on its feature map."""

  boxes: np.ndarray  # [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels.
  scores: np.ndarray  # [N] float32, attention.
  cells: np.ndarray  # [N] int, position on the map, row by row.
  features: np.ndarray  # [Y * X, D] float32, the whole map.
  scale: np.float32  # Inverse of the image scale.


class Local(NamedTuple):
  """Selected local features, with the names of `tensors.LOCAL_OUTPUTS`."""

  boxes: np.ndarray  # [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels.
  features: np.ndarray  # [N, D] float32.
  scales: np.ndarray  # [N] float32, inverse of the image scales.
  scores: np.ndarray  # [N] float32, attention, descending.


def normalised(image: np.ndarray) -> np.ndarray:
  """Return (value - 128) / 128 as float32."""
  return (image.astype(np.float32) - np.float32(128)) / np.float32(128)


def resize(pixels: np.ndarray, scale: float) -> np.ndarray:
  """Return pixels [H, W, 3] float32 at a scale, as [1, h, w, 3].

  As in `tf.image.resize`: sides are rounded half to even, in float32, and
  interpolation is bilinear without antialiasing.
  """
  shape = np.array(pixels.shape[:2], np.float32)
  height, width = np.round(shape * np.float32(scale)).astype(int)
  if (height, width) == pixels.shape[:2]:
    return pixels[np.newaxis]
  size = (int(width), int(height))
  return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)[np.newaxis]


def candidates(
  maps: Sequence[np.ndarray],
  scale: float,
  threshold: float,
  receptive: Sequence[float] | None,
) -> Candidates:
  """Return the local features of one scale over a threshold, in raster order.

  Maps are attention [1, y, x, 1], features [1, y, x, D], and optionally offsets
  [1, y, x, 2] (y, x) from the centre of a cell; all float32. `receptive` is
  the (size, stride, padding) of a cell, in pixels at this scale. An attention
  of NaN passes the threshold, so that the caller can report it.
  """
  attention, features, *offsets = maps
  size, stride, padding = np.array(receptive, np.float32)
  image_scale = np.float32(scale)
  scores = attention.reshape(-1)
  cells = np.flatnonzero(~(scores < np.float32(threshold)))
  corners = np.stack(np.divmod(cells, features.shape[2]), axis=1)
  least = stride * corners.astype(np.float32) - padding
  boxes = np.concatenate([least, least + (size - np.float32(1))], axis=1)
  if offsets:
    boxes += np.tile(offsets[0].reshape(-1, 2)[cells], [1, 2])
  return Candidates(
    boxes=boxes / image_scale,
    scores=scores[cells],
    cells=cells,
    features=features.reshape(-1, features.shape[-1]),
    scale=np.float32(1) / image_scale,
  )


def select(levels: Sequence[Candidates], most: int, iou: float) -> Local:
  """Return the `most` best features of all scales, best first.

  Equal ones keep their order. Of two boxes that overlap by more than `iou` the
  weaker one is dropped; an `iou` of 1.0 or more keeps all.
  """
  boxes = np.concatenate([level.boxes for level in levels])
  scores = np.concatenate([level.scores for level in levels])
  scales = np.repeat([c.scale for c in levels], [len(c.cells) for c in levels])
  ranks = np.where(np.isnan(scores), np.inf, scores)
  kept = np.argsort(-ranks, kind="stable")
  if iou < 1.0:
    kept = kept[_suppress(boxes[kept], most, iou)]
  kept = kept[:most]
  features = np.empty([len(kept), levels[0].features.shape[1]], np.float32)
  start = 0
  for level in levels:
    end = start + len(level.cells)
    rows = np.flatnonzero((kept >= start) & (kept < end))
    features[rows] = level.features[level.cells[kept[rows] - start]]
    start = end
  return Local(boxes[kept], features, scales[kept], scores[kept])


def _suppress(boxes, most, iou):
  """Returns the positions kept by non-maximum suppression, over `most`."""
  # `cv2.dnn.NMSBoxes` rounds differently, and takes 42 s in place of 0.01 s
  # (24 187 boxes, 1000 kept, at 0.9).
  kept = np.zeros(0, int)
  for start in range(0, len(boxes), _BLOCK):
    block = np.arange(start, min(start + _BLOCK, len(boxes)))
    suppressed, _ = _overlapping(boxes[block], boxes[kept], iou)
    block = np.delete(block, suppressed)
    pairs = _overlapping(boxes[block], boxes[block], iou)
    kept = np.concatenate([kept, block[_independent(len(block), *pairs)]])
    if len(kept) >= most:
      break
  return kept


def _overlapping(boxes, others, iou):
  """Returns the pairs that overlap by more than `iou`, as two [P] int."""
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
  # Rounded as by TensorFlow, which matters at equality.
  joined = areas + other_areas - shared
  over = np.divide(shared, joined, out=np.zeros_like(joined), where=joined > 0)
  over = over > np.float32(iou)
  return first[over], second[over]


def _near(boxes, others, iou):
  """Returns a superset of the pairs that overlap by more than `iou`.

  Along each axis, sides a <= b at a distance d have an overlap of at most
  a / b, and of at most (s - d) / (s + d) with s = (a + b) / 2. If it is over
  `iou`, then d < s (1 - iou) / (1 + iou) and b < a / iou.
  """
  centres, other_centres = (b[:, :2] + b[:, 2:] for b in (boxes, others))
  sides, other_sides = (
    (b[:, 2:] - b[:, :2]).max(axis=1, initial=0) for b in (boxes, others)
  )
  # Twice the distance, since the centres are doubled.
  reach = np.minimum(
    sides * ((1 - iou) / max(iou, 1e-9)), sides + other_sides.max(initial=0)
  )
  reach *= 1.001  # Against rounding.
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
  """Returns [number] bool: the greedy choice where earlier boxes win.

  `first` and `second` [P] are conflicting pairs, in both orders.
  """
  earlier = second < first
  first, second = first[earlier], second[earlier]
  kept = np.zeros(number, bool)
  undecided = ~kept
  while undecided.any():
    # A box without an earlier undecided conflict is kept, all of them at once.
    free = undecided.copy()
    free[first] = False
    kept |= free
    undecided &= ~free
    undecided[first[free[second]]] = False
    open_ = undecided[first] & undecided[second]
    first, second = first[open_], second[open_]
  return kept


class SingleFileModel:
  """A network in one file, with the methods of `saved_model.ExtractionModel`.

  `run` is a function of images [1, h, w, 3] float32, normalised, and names of
  outputs; it returns a dict of attention [1, y, x, 1], features [1, y, x, D],
  offsets [1, y, x, 2] and descriptor [1, D'].
  """

  def __init__(
    self,
    path: str | os.PathLike,
    settings: network_files.Settings,
    run: Callable[..., dict[str, np.ndarray]],
    device_label: str = "CPU",
  ):
    self.folder = pathlib.Path(path)
    self.device_label = device_label
    self._settings = settings
    self._network = run
    self._maps = [network_files.ATTENTION, network_files.FEATURES]
    if settings.has_offsets:
      self._maps.append(network_files.OFFSETS)
    has_scales = settings.input_scales is None
    self._is_pooled = settings.pool_type != "None"
    self.inputs: list[str] = [tensors.IMAGE]
    self.outputs: list[str] = []
    if has_scales:
      self.inputs.append(tensors.SCALES)
    if settings.form != network_files.GLOBAL:
      self.inputs += [tensors.THRESHOLD, tensors.MAX_FEATURE_NUM]
      self.outputs += tensors.LOCAL_OUTPUTS
    if settings.form != network_files.LOCAL:
      if has_scales:
        self.inputs.append(tensors.INDICES)
      self.outputs.append(tensors.GLOBAL_OUTPUTS[self._is_pooled])

  def output_size(self, name: str) -> int | None:
    """Return the last dimension of an output, or None if it is unknown."""
    is_local = name in tensors.LOCAL_OUTPUTS
    return self._settings.local_size if is_local else self._settings.global_size

  def prepare(
    self, request: tensors.Request, batch: bool = False
  ) -> Callable | None:
    """Return a function as `ExtractionModel.prepare` does; None for a batch."""
    tensors.check(request, self.inputs, self.outputs, self.folder)
    if batch:
      return None

    def extract(image):
      tensors.check_size(image, self.inputs, request)
      arrays = self._extract(normalised(image), request)
      return tensors.tidy(arrays, self.inputs, request)

    return extract

  def _extract(self, pixels, request):
    """Returns the arrays of one image under the names of SavedModels."""
    settings = self._settings
    scales, chosen = request.image_scales, set(request.global_scales or ())
    if settings.input_scales is not None:
      scales = settings.input_scales
      chosen = set(range(len(scales)))
    levels, descriptors = [], []
    for index, scale in enumerate(scales):
      names = list(self._maps) if request.use_local else []
      if is_global := request.use_global and index in chosen:
        names.append(network_files.DESCRIPTOR)
      if not names:
        continue
      outputs = self._run(resize(pixels, scale), names)
      if request.use_local:
        maps = [outputs[name] for name in self._maps]
        limits = request.abs_thres, settings.receptive
        levels.append(candidates(maps, scale, *limits))
      if is_global:
        descriptors.append(outputs[network_files.DESCRIPTOR][0])
    arrays: dict[str, np.ndarray] = {}
    if request.use_local:
      arrays = select(levels, request.max_feature_num, settings.iou)._asdict()
    if request.use_global:
      name = tensors.GLOBAL_OUTPUTS[self._is_pooled]
      arrays[name] = self._pool(np.stack(descriptors))
    return arrays

  def _pool(self, descriptors):
    if self._is_pooled:
      pool = np.mean if self._settings.pool_type == "average" else np.sum
      descriptors = pool(descriptors, axis=0)
    is_normal = self._settings.normalize
    return tensors.l2_normalized(descriptors) if is_normal else descriptors

  def _run(self, images, names):
    """Runs the network, and checks the shapes of its outputs."""
    try:
      outputs = self._network(images, names)
    except Exception as error:  # Runtimes raise errors of many classes.
      raise tensors.image_error(error, self.folder) from error
    attention = np.shape(outputs.get(network_files.ATTENTION, ()))
    rows, columns, *_ = (*attention[1:3], 0, 0)
    shapes = {
      network_files.ATTENTION: (1, rows, columns, 1),
      network_files.FEATURES: (1, rows, columns, None),
      network_files.OFFSETS: (1, rows, columns, 2),
      network_files.DESCRIPTOR: (1, None),
    }
    for name, value in outputs.items():
      tensors.check_shape(value, shapes[name], name, self.folder)
    return outputs


def load(path: pathlib.Path, device: str | None = None) -> SingleFileModel:
  """Load a `.onnx` or `.tflite` network written by `delf export`.

  The device is "cpu", or "gpu" or "gpu:N" if ONNX Runtime has CUDA, or None for
  the best one. InputError if the file is damaged, or device or runtime missing.
  """
  settings = network_files.read_settings(path)
  is_onnx = path.suffix.lower() == network_files.ONNX
  run, outputs, label = (_load_onnx if is_onnx else _load_tflite)(path, device)
  if outputs != set(settings.outputs):
    needed, actual = ", ".join(settings.outputs), ", ".join(sorted(outputs))
    message = f"the network must have the outputs {needed}, not {actual}"
    raise errors.InputError(message, path=path)
  return SingleFileModel(path, settings, run, label)


def _load_onnx(path, device):
  """Returns the network, names of its outputs, and a label of the device."""
  runtime: Any = errors.load("onnxruntime", "onnx")
  provider, label = _onnx_device(runtime.get_available_providers(), device)
  options = runtime.SessionOptions()
  options.intra_op_num_threads = concurrency.core_count()
  options.log_severity_level = _ERRORS
  # Spinning threads waste shared processors: beside a training the extraction
  # takes twice the time (benchmarks/export_formats.py).
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  try:
    # As bytes, so that it cannot refer to other files.
    session = runtime.InferenceSession(
      path.read_bytes(), options, providers=[provider]
    )
  except Exception as error:  # It raises errors of its own classes.
    message = f"the ONNX file cannot be read ({errors.one_line(error)})"
    raise errors.InputError(message, path=path) from None
  run_options = runtime.RunOptions()
  # Skips the layers of outputs that are not requested.
  run_options.only_execute_path_to_fetches = True
  run_options.log_severity_level = _ERRORS

  def run(images, names):
    feeds = {network_files.IMAGES: images}
    outputs = session.run(names, feeds, run_options)
    return dict(zip(names, outputs, strict=True))

  return run, {output.name for output in session.get_outputs()}, label


def _onnx_device(providers, device):
  """Returns ONNX Runtime's provider for a device, and a label."""
  kinds = "cpu|gpu" if _GPU in providers else "cpu"
  name = kinds[-3:] if device is None else str(device).strip().lower()
  match = re.fullmatch(rf"/?(?:device:)?({kinds})(?::(\d+))?", name)
  if match is None:
    known = "CPU:0, GPU:N" if _GPU in providers else "CPU:0"
    raise errors.InputError(f"no device {device!r}: use one of {known}")
  if match[1] == "cpu":
    return _CPU, "CPU (ONNX Runtime)"
  number = int(match[2] or 0)
  return (_GPU, {"device_id": number}), f"GPU:{number} (ONNX Runtime)"


def _load_tflite(path, device):
  """Returns the same as `_load_onnx`; threads take turns with the network."""
  name = "cpu" if device is None else str(device).lower().strip("/")
  if name not in ("cpu", "cpu:0"):
    raise errors.InputError(f"no device {device!r}: use one of CPU:0")
  runtime: Any = errors.load("ai_edge_litert.interpreter", "tflite")
  try:
    interpreter = runtime.Interpreter(
      model_path=os.fspath(path), num_threads=concurrency.core_count()
    )
    runners = [
      (interpreter.get_signature_runner(name), set(signature["outputs"]))
      for name, signature in interpreter.get_signature_list().items()
    ]
  except (ValueError, RuntimeError) as error:
    message = f"the TFLite file cannot be read ({errors.one_line(error)})"
    raise errors.InputError(message, path=path) from None
  runners.sort(key=lambda each: len(each[1]))  # The cheapest first.
  lock = threading.Lock()

  def run(images, names):
    with lock:
      for runner, outputs in runners:
        if set(names) <= outputs:
          return runner(**{network_files.IMAGES: images})
    raise ValueError(f"no function for {names}")

  return run, set().union(*(outputs for _, outputs in runners)), "CPU (LiteRT)"

"""Extraction with a network in one file, for a runtime other than TensorFlow.

The file has the network of one scale; the pyramid of scales, the selection and
the pooling around it are NumPy code, for each runtime the same.
"""

import collections
import os
import pathlib
import re
import threading
import typing
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from delf.base import concurrency, errors
from delf.formats import network_files
from delf.inference import tensors

# Boxes that are compared at once with each other and with those that stay.
_BLOCK = 1000
_CPU, _GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS = 3  # ONNX Runtime's level of errors alone, which it raises as well.


class Candidates(typing.NamedTuple):
  """Local features of one scale, as positions on its feature map."""

  boxes: np.ndarray  # [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels.
  scores: np.ndarray  # [N] float32, attention.
  cells: np.ndarray  # [N] int, position on the map, row by row.
  features: np.ndarray  # [Y * X, D] float32, the whole map.
  scale: np.float32  # Inverse of the image scale.


Local = collections.namedtuple("Local", tensors.LOCAL_OUTPUTS)


def normalised(image: np.ndarray) -> np.ndarray:
  """Return (value - 128) / 128 as float32."""
  return (image.astype(np.float32) - np.float32(128)) / np.float32(128)


def resize(pixels: np.ndarray, scale: float) -> np.ndarray:
  """Return pixels [H, W, 3] float32 at a scale, as [1, h, w, 3].

  Sides are rounded half to even, in float32; bilinear without antialiasing, as
  `tf.image.resize`.
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
  receptive: tuple[float, float, float],
) -> Candidates:
  """Return the local features of one scale that pass the threshold, row by row.

  Maps are attention [1, y, x, 1], features [1, y, x, D], and perhaps offsets
  [1, y, x, 2] (y, x) from the centre of a cell; all float32. `receptive` is
  (size, stride, padding) of a cell, in pixels at this scale. NaN as attention
  passes the threshold, so that it is seen.
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


def select(found: Sequence[Candidates], most: int, iou: float) -> Local:
  """Return the best features, best first; of equal ones the first ones.

  Of two boxes that overlap by more than `iou` the weaker one goes; from 1.0 on,
  all stay.
  """
  boxes = np.concatenate([each.boxes for each in found])
  scores = np.concatenate([each.scores for each in found])
  scales = np.repeat([c.scale for c in found], [len(c.cells) for c in found])
  ranks = np.where(np.isnan(scores), np.inf, scores)
  kept = np.argsort(-ranks, kind="stable")
  if iou < 1.0:
    kept = kept[_suppress(boxes[kept], most, iou)]
  kept = kept[:most]
  features = np.empty([len(kept), found[0].features.shape[1]], np.float32)
  start = 0
  for each in found:
    end = start + len(each.cells)
    rows = np.flatnonzero((kept >= start) & (kept < end))
    features[rows] = each.features[each.cells[kept[rows] - start]]
    start = end
  return Local(boxes[kept], features, scales[kept], scores[kept])


def _suppress(boxes, most, iou):
  """Returns positions that non-maximum suppression leaves, at most `most`."""
  # `cv2.dnn.NMSBoxes` rounds otherwise, and takes 42 s where this takes 0.01 s
  # (24 187 boxes, 1000 kept, at 0.9).
  kept = np.zeros(0, int)
  for start in range(0, len(boxes), _BLOCK):
    block = np.arange(start, min(start + _BLOCK, len(boxes)))
    gone, _ = _overlapping(boxes[block], boxes[kept], iou)
    block = np.delete(block, gone)
    pairs = _overlapping(boxes[block], boxes[block], iou)
    kept = np.concatenate([kept, block[_independent(len(block), *pairs)]])
    if len(kept) >= most:
      break
  return kept


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
  reach *= 1.001  # As it is rounded.
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

  Pairs that cannot both stay are given in both orders: `first` [P], `second`.
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


class SingleFileModel:
  """A network in one file, used as `saved_model.ExtractionModel` is.

  `inputs` and `outputs` are lists of names. `run` is a function of images
  [1, h, w, 3] float32, normalised, and names of outputs; it returns a dict of
  attention [1, y, x, 1], features [1, y, x, D], offsets [1, y, x, 2] and
  descriptor [1, D'].
  """

  def __init__(
    self,
    path: str | os.PathLike,
    settings: network_files.Settings,
    run: Callable,
    device_words: str = "CPU",
  ):
    self.folder = pathlib.Path(path)
    self.device_words = device_words
    self._settings = settings
    self._network = run
    self._maps = [network_files.ATTENTION, network_files.FEATURES]
    if settings.has_offsets:
      self._maps.append(network_files.OFFSETS)
    has_scales = settings.input_scales is None
    self._is_pooled = settings.pool_type != "None"
    self.inputs, self.outputs = [tensors.IMAGE], []
    if has_scales:
      self.inputs.append(tensors.SCALES)
    if settings.form != network_files.GLOBAL:
      self.inputs += [tensors.THRESHOLD, tensors.MOST]
      self.outputs += tensors.LOCAL_OUTPUTS
    if settings.form != network_files.LOCAL:
      if has_scales:
        self.inputs.append(tensors.INDICES)
      self.outputs.append(tensors.GLOBAL_OUTPUTS[self._is_pooled])

  def output_size(self, name: str) -> int | None:
    """Return the last dimension of an output, or None if it is not known."""
    is_local = name in tensors.LOCAL_OUTPUTS
    return self._settings.local_size if is_local else self._settings.global_size

  def prepare(
    self, request: tensors.Request, batch: bool = False
  ) -> Callable | None:
    """Return what `ExtractionModel.prepare` does; None for a batch."""
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
    scales, chosen = request.image_scales, set(request.global_scales or ())
    if settings.input_scales is not None:
      scales = settings.input_scales
      chosen = set(range(len(scales)))
    found, descriptors = [], []
    for index, scale in enumerate(scales):
      is_global = request.use_global and index in chosen
      names = self._maps if request.use_local else []
      names = [*names, *([network_files.DESCRIPTOR] if is_global else [])]
      if not names:
        continue
      outputs = self._run(resize(pixels, scale), names)
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
      name = tensors.GLOBAL_OUTPUTS[self._is_pooled]
      arrays[name] = self._pool(np.stack(descriptors))
    return arrays

  def _pool(self, descriptors):
    if self._is_pooled:
      pools = {"average": np.mean, "sum": np.sum}
      descriptors = pools[self._settings.pool_type](descriptors, axis=0)
    if self._settings.normalize:
      descriptors = tensors.l2_normalized(descriptors)
    return descriptors

  def _run(self, images, names):
    """Runs the network, and checks the shapes of its outputs."""
    try:
      outputs = self._network(images, names)
    except Exception as error:  # Runtimes raise whatever they have.
      raise tensors.refused(error, self.folder) from error
    shapes = {name: np.shape(value) for name, value in outputs.items()}
    rows, columns, *_ = (*shapes.get(network_files.ATTENTION, ())[1:3], 0, 0)
    wanted = {
      network_files.ATTENTION: (1, rows, columns, 1),
      network_files.FEATURES: (1, rows, columns, None),
      network_files.OFFSETS: (1, rows, columns, 2),
      network_files.DESCRIPTOR: (1, None),
    }
    for name, shape in shapes.items():
      if len(shape) != len(wanted[name]) or any(
        one not in (None, other)
        for one, other in zip(wanted[name], shape, strict=True)
      ):
        sizes = ", ".join("any" if n is None else str(n) for n in wanted[name])
        raise errors.InputError(
          f"{name} of shape [{sizes}]", list(shape), self.folder
        )
    return outputs


def load(path: pathlib.Path, device: str | None = None) -> SingleFileModel:
  """Load a `.onnx` or `.tflite` network that `delf export` wrote.

  A device is "cpu", or "gpu" or "gpu:N" where ONNX Runtime has CUDA, or None
  for the best available; InputError if one or the runtime is missing.
  """
  settings = network_files.read_settings(path)
  is_onnx = path.suffix.lower() == network_files.ONNX
  run, outputs, words = (_load_onnx if is_onnx else _load_tflite)(path, device)
  if outputs != set(settings.outputs):
    raise errors.InputError(
      f"a network with the outputs {', '.join(settings.outputs)}",
      ", ".join(sorted(outputs)),
      path,
    )
  return SingleFileModel(path, settings, run, words)


def _load_onnx(path, device):
  """Returns the network, names of its outputs, and what it runs on."""
  runtime = errors.load("onnxruntime", "onnx")
  provider, words = _onnx_device(runtime.get_available_providers(), device)
  options = runtime.SessionOptions()
  options.intra_op_num_threads = concurrency.core_count()
  options.log_severity_level = _ERRORS
  # Threads that wait while they run are a loss where processors are shared:
  # twice the time beside a training (benchmarks/export_formats.py).
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  try:
    # By its bytes, so that it cannot name other files to be read.
    session = runtime.InferenceSession(
      path.read_bytes(), options, providers=[provider]
    )
  except Exception as error:  # It raises classes of its own.
    reason = f"one that cannot be read ({errors.one_line(error)})"
    raise errors.InputError("a whole ONNX file", reason, path) from None
  how = runtime.RunOptions()
  # What only the descriptor needs is not computed for local features alone.
  how.only_execute_path_to_fetches = True
  how.log_severity_level = _ERRORS

  def run(images, names):
    found = session.run(names, {network_files.IMAGES: images}, how)
    return dict(zip(names, found, strict=True))

  return run, {output.name for output in session.get_outputs()}, words


def _onnx_device(providers, device):
  """Returns the provider for a device, as ONNX Runtime takes it, and a name."""
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


def _load_tflite(path, device):
  """Returns the network, which several threads take turns at, as for ONNX."""
  name = "cpu" if device is None else str(device).lower().strip("/")
  if name not in ("cpu", "cpu:0"):
    raise errors.InputError("a device, one of CPU:0", repr(device))
  runtime = errors.load("ai_edge_litert.interpreter", "tflite")
  try:
    interpreter = runtime.Interpreter(
      model_path=os.fspath(path), num_threads=concurrency.core_count()
    )
    signatures = interpreter.get_signature_list()
    runners = [
      (interpreter.get_signature_runner(name), set(signature["outputs"]))
      for name, signature in signatures.items()
    ]
  except (ValueError, RuntimeError) as error:
    reason = f"one that cannot be read ({errors.one_line(error)})"
    raise errors.InputError("a whole TFLite file", reason, path) from None
  runners.sort(key=lambda each: len(each[1]))  # Least work first.
  lock = threading.Lock()

  def run(images, names):
    with lock:
      for runner, outputs in runners:
        if set(names) <= outputs:
          return runner(**{network_files.IMAGES: images})
    raise ValueError(f"no function for {names}")

  return run, set().union(*(outputs for _, outputs in runners)), "CPU (LiteRT)"

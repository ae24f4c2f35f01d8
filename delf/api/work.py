"""Work on many photos: extraction, detection, evaluation, training, export."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from delf.api import model as models
from delf.base import arrays, boxes, errors, progress
from delf.base.progress import Progress
from delf.extraction import detect as detection
from delf.extraction import engine
from delf.extraction import extract as extraction

if TYPE_CHECKING:
  from delf.evaluation import evaluate as evaluation
  from delf.learning import export as exporting
  from delf.learning.finetune import run

# One or several: folder, pattern, list (.txt) or photo.
Sources = str | os.PathLike | Sequence[str | os.PathLike]
Path = str | os.PathLike
Say = Callable[[str], object]

_shown = progress.shown  # `progress` is an argument below.
# Least score of a box that is more likely right than wrong.
THRESHOLD = 0.3
# Minutes to train, where neither a time nor a number of steps is given.
MINUTES = 15.0


def log_error(line: object) -> None:
  """Log a line about a photo that failed, the default of `say`."""
  logging.error("%s", line)


def listed(sources: Sources) -> list[str]:
  """Return one source or several as a list."""
  if isinstance(sources, str | os.PathLike):
    return [os.fspath(sources)]
  return [os.fspath(each) for each in sources]


def extract(
  sources: Sources,
  out: Path,
  *,
  model: Any = None,
  config: Path | None = None,
  local_only: bool = False,
  global_only: bool = False,
  max_size: int | None = None,
  max_features: int | None = None,
  rotate: bool = False,
  batch: int | None = None,
  workers: int = 1,
  device: str | None = None,
  overwrite: bool = False,
  progress: Progress = True,
  say: Say = log_error,
) -> engine.ImageReport:
  """Extract features of photos to files, as `delf extract` does.

  Each file is written whole or not at all, and a run that was interrupted
  resumes when it is repeated. A photo that cannot be used is reported, and
  listed in `failed` of the report.

  Args:
    sources: Folder, pattern, list (.txt) or photo, or several.
    out: Folder for `<name>.delf` and `<name>.delg_global`.
    model: With `config`, `local_only`, `global_only`, `max_size`,
      `max_features`, `rotate` and `device`, as `delf.load` takes them.
    batch: Most photos of one size at once; None for 1 on a CPU, and as many as
      fit in memory on a GPU.
    workers: Threads that decode; 0 decodes between other work.
    overwrite: Whether photos that are done are extracted again.
    progress: Whether to show progress, or a function that is called with a
      label, the photos done, and their number.
    say: Called with a line for each photo that failed.

  Returns:
    ImageReport: the photos done, skipped and failed.

  Raises:
    InputError: If there are no photos, or the folder has features of another
      model or other settings.
    KeyboardInterrupt: If the user interrupted it; finished photos stay, and its
      `report` lists them.

  Example:
    >>> import delf
    >>> _ = delf.sample_photos("sample_photos")
    >>> report = delf.extract("sample_photos", "features", progress=False)
    >>> len(report.done) + len(report.skipped)
    3
  """
  chosen = models.configure(
    model,
    config=config,
    max_size=max_size,
    max_features=max_features,
    local_only=local_only,
    global_only=global_only,
  )
  images, names = engine.find(listed(sources))
  with _shown(progress):
    report = extraction.extract_to_files(
      images,
      chosen,
      out,
      names=names,
      say=say,
      resume=not overwrite,
      batch_size=batch,
      workers=workers,
      device=device,
      apply_rotation=rotate,
    )
  return _finished(report)


def _finished(report):
  if report.interrupted:
    raise errors.Interrupted(report)
  return report


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PhotoBoxes(arrays.Record):
  """Boxes of landmarks in a photo, the best first."""

  path: str
  boxes: np.ndarray  # [N, 4] float, (x1, y1, x2, y2) in pixels of the photo.
  scores: np.ndarray  # [N] float in [0, 1].
  classes: np.ndarray  # [N] int.

  def __len__(self) -> int:
    return len(self.boxes)


def detect(
  sources: Sources,
  *,
  out: Path | None = None,
  pictures: Path | None = None,
  detector: Path = "delf-boxes",
  threshold: float = THRESHOLD,
  overlap: float | None = None,
  max_size: int | None = None,
  rotate: bool = False,
  batch: int | None = None,
  workers: int = 1,
  device: str | None = None,
  overwrite: bool = False,
  progress: Progress = True,
  say: Say = log_error,
  see: Callable[[PhotoBoxes], object] | None = None,
) -> detection.DetectReport:
  """Find boxes around landmarks in photos, as `delf detect` does.

  Args:
    sources: Folder, pattern, list (.txt) or photo, or several.
    out: Folder for `<name>.boxes`; None writes no files.
    pictures: Folder for `<name>_viz.jpg` with the boxes drawn; None for none.
    detector: Name of a detector (`delf models` lists them), or folder of a
      SavedModel.
    threshold: Least score of a box.
    overlap: IoU over which a box that overlaps a better one is dropped; None
      keeps all that the detector gives.
    max_size: Pixels that the longer side of photos is scaled down to.
    rotate: Whether to apply the EXIF orientation of photos.
    batch: With `workers`, `device`, `overwrite`, `progress` and `say`, as
      `extract` takes them.
    see: Called with the PhotoBoxes of each photo as soon as it is done.

  Returns:
    DetectReport; `photos` has the PhotoBoxes of each photo that was searched,
    but not of those that an earlier run with `out` had done (`skipped`).

  Raises:
    InputError: If there are no photos, or `out` has boxes of another detector.

  Example:
    >>> import delf
    >>> photos = delf.sample_photos("sample_photos")
    >>> report = delf.detect(photos[0], threshold=0.2, progress=False)
    >>> report.photos[0].boxes.shape == (len(report.photos[0]), 4)
    True
  """
  images, names = engine.find(listed(sources))
  seen: list[PhotoBoxes] = []

  def note(job, detections, size):
    order = np.argsort(-detections.scores, kind="stable")
    # From (y1, x1, y2, x2).
    pixels = boxes.to_pixels(detections.boxes, *size)[order][:, [1, 0, 3, 2]]
    row = PhotoBoxes(
      job.path, pixels, detections.scores[order], detections.classes[order]
    )
    seen.append(row)
    if see is not None:
      see(row)

  with _shown(progress):
    report = detection.detect_to_files(
      images,
      detector,
      out,
      pictures,
      names=names,
      say=say,
      threshold=threshold,
      most_overlap=overlap,
      max_size=max_size,
      see=note,
      resume=not overwrite,
      batch_size=batch,
      workers=workers,
      device=device,
      apply_rotation=rotate,
    )
  return _finished(dataclasses.replace(report, photos=tuple(seen)))


def evaluate(
  truth: Path,
  out: Path,
  *,
  images: Path | None = None,
  index: Path | None = None,
  queries: Path | None = None,
  model: Any = None,
  config: Path | None = None,
  codebook: Path | None = None,
  aggregation: Path | None = None,
  whitening: Path | None = None,
  method: str | None = None,
  verify: bool = False,
  verify_top: int = 100,
  expand: int = 0,
  refine: str | None = None,
  regions: bool = True,
  html: Path | None = None,
  workers: int | None = None,
  device: str | None = None,
  progress: Progress = True,
  say: Say = log_error,
) -> "evaluation.EvaluateReport":
  r"""Measure a search with ground truth, as `delf eval` does.

  Args:
    truth: "roxford5k" or "rparis6k", or a file: `.mat` or `.pkl` of these data
      sets, or your own in `.csv` (query,image,label) or `.json`.
    out: Folder for `metrics.txt`, `report.json`, and the index if one is made.
    images: Photos of the collection, or their features; of roxford5k and
      rparis6k the folder that `delf download` made.
    index: Existing index; None for one in `out`.
    queries: Photos of the queries, or their features; None for `images`.
    model: With `config`, `codebook`, `aggregation` and `whitening`, as
      `Index.build` takes them.
    method: With `verify`, `verify_top`, `expand`, `refine`, `regions` and
      `workers`, as `Index.search` takes them.
    html: Path of a page with curves and all results.
    device: With `progress` and `say`, as `extract` takes them.

  Returns:
    EvaluateReport; `card.evaluation` has the metrics, and of an index with
    regions `without_regions` is the report of whole images alone.

  Raises:
    InputError: If the ground truth does not fit the photos, or a query has no
      features.

  Example:
    >>> import delf
    >>> photos = delf.sample_photos("sample_photos")
    >>> with open("truth.csv", "w") as file:
    ...   _ = file.write(
    ...     "query,image,label\n"
    ...     "motorcycle_left.jpg,motorcycle_right.jpg,positive\n"
    ...   )
    >>> report = delf.evaluate(
    ...   "truth.csv", "result", images="sample_photos", progress=False
    ... )
    >>> sorted(report.card.evaluation.protocols)
    ['all']
  """
  from delf.search import building, collection, searching

  if html:
    from delf.pictures import results_page

    results_page.check_path(html)
  truth_path, images = _locate(truth, images)
  options = searching.SearchOptions(
    method, verify, verify_top, expand, refine, regions, workers
  )
  failed: tuple = ()
  with _shown(progress):
    if index is None:
      build = building.BuildOptions(
        model, config, codebook, aggregation, whitening, device=device
      )
      index = os.path.join(out, "index")
      failed = _build(truth_path, images, index, build, say)
    opened = collection.open_folder(index)
    photos = queries or images
    report = _measure(
      opened, truth_path, photos, options, out, html, device, say
    )
  return dataclasses.replace(report, failed=(*failed, *report.failed))


def _measure(opened, truth_path, photos, options, out, html, device, say):
  """Return the report of a search in an index with options."""
  from delf.evaluation import evaluate as evaluation
  from delf.search import searching

  searcher = searching.Searcher(opened, options)
  truth = evaluation.read_truth(truth_path, searcher)
  queries = _queries(opened, truth, photos, device, say)
  report = evaluation.evaluate(searcher, truth, queries, out)
  for failure in report.failed:
    say(str(failure))
  if searcher.has_regions and options.regions:
    whole = dataclasses.replace(options, regions=False)
    whole_searcher = searching.Searcher(opened, whole)
    folder = os.path.join(out, "without_regions")
    without = evaluation.evaluate(whole_searcher, truth, queries, folder)
    report = dataclasses.replace(report, without_regions=without)
  if not html:
    return report
  page = evaluation.write_page(report, searcher, html, report.without_regions)
  return dataclasses.replace(report, problems=page.problems)


def _locate(truth, images):
  """Return the paths of the ground truth and of the images, or None."""
  from delf.python.datasets.revisited_op import dataset

  if truth not in dataset.IMAGE_FOLDERS:
    return truth, images
  if not images:
    raise errors.InputError(
      f"{truth} needs images, the folder that `delf download {truth}` made"
    )
  for extension in ("pkl", "mat"):
    path = os.path.join(images, f"gnd_{truth}.{extension}")
    if os.path.exists(path):
      return path, os.path.join(images, dataset.IMAGE_FOLDERS[truth])
  raise FileNotFoundError(f"{path}: no such file; it has the ground truth")


def _build(truth_path, images, folder, options, say):
  """Make the index of an evaluation, and return photos that failed."""
  from delf.evaluation import evaluate as evaluation
  from delf.search import building

  if not images:
    raise errors.InputError("an evaluation needs images or an index")
  if extraction.find_features([images]) is None:
    photos, names = evaluation.find_index_photos(truth_path, images)
    return building.build_photos(photos, names, folder, options, say).failed
  return building.build([images], folder, options, say).failed


def _queries(opened, truth, folder, device, say):
  """Return the queries in the order of the ground truth."""
  from delf.evaluation import evaluate as evaluation
  from delf.search import searching

  if not folder:
    raise errors.InputError("--queries is required: photos of the queries")
  if extraction.find_features([folder]) is not None:
    return evaluation.find_features(truth, folder)
  photos = evaluation.find_photos(truth, folder)
  queries, report = searching.extract_queries(opened, photos, say, device)
  if report.failed:
    raise errors.InputError(
      f"{len(report.failed)} of {len(photos)} query photos cannot be used, such"
      f" as {report.failed[0]}",
      path=folder,
    )
  return queries


def train(
  sources: Sources,
  out: Path,
  *,
  start: str | None = None,
  labels: str = "auto",
  minutes: float | None = None,
  steps: int | None = None,
  rate: float | None = None,
  batch: int | None = None,
  view: int = 192,
  size: int = 400,
  seed: int = 0,
  overwrite: bool = False,
  rotate: bool = False,
  progress: Progress = True,
) -> "run.TrainReport":
  """Train a model on photos, as `delf train` does.

  The model is measured on held-out photos before and after, and the better one
  is kept. A run that was stopped resumes when it is repeated.

  Args:
    sources: Folder, pattern, list (.txt) or photo, or several.
    out: Folder of the model to be made.
    start: Folder of a model that this function made, a checkpoint (`.npz`), or
      "scratch"; None for the embedded model.
    labels: Classes of photos: "folders", "none", a CSV file (rows:
      photo,class), or "auto": folders, where all photos lie in sub-folders.
    minutes: Time to learn; 15 where `steps` is not given either.
    steps: Steps to learn, in place of a time: the same weights each time.
    rate: Highest learning rate; None for that of the network.
    batch: Pairs of views in a step, each of another place; None for 8.
    view: Pixels of a view's side, a multiple of 8 from 64 on.
    size: Pixels that the longer side of photos is scaled down to.
    seed: Random seed.
    overwrite: Whether a model at `out`, and an unfinished one, are replaced.
    rotate: Whether to apply the EXIF orientation of photos.
    progress: As `extract` takes it.

  Returns:
    TrainReport, with the scores before and after.

  Raises:
    InputError: If `out` is taken, or there are too few photos.
    Stopped: After SIGINT or SIGTERM, once a checkpoint is written.

  Example:
    >>> import delf
    >>> delf.train("no_photos", "my_model")
    Traceback (most recent call last):
      ...
    FileNotFoundError: ...
  """
  from delf.learning.finetune import model, run

  options = run.TrainOptions(
    start=start,
    labels=labels,
    minutes=MINUTES if minutes is None and steps is None else minutes,
    steps=steps,
    rate=rate,
    batch=batch,
    view=view,
    size=size,
    seed=seed,
    rotate=rotate,
  )
  sources = listed(sources)
  command = _command(["delf", "train"], sources, out, options)
  with _shown(progress):
    return model.train(sources, out, options, overwrite, command)


def train_detector(
  boxes: Path,
  sources: Sources,
  out: Path,
  *,
  start: str | None = None,
  minutes: float | None = None,
  steps: int | None = None,
  rate: float | None = None,
  batch: int | None = None,
  seed: int = 0,
  overwrite: bool = False,
  rotate: bool = False,
  progress: Progress = True,
) -> "run.TrainReport":
  """Train a detector of landmarks, as `delf train-detector` does.

  Args:
    boxes: CSV file with a row for each box: image_id,ymin,xmin,ymax,xmax in [0,
      1], or image_id,box as in Google Landmark Boxes.
    sources: Folder, pattern, list (.txt) or photo, or several.
    out: Folder of the detector to be made.
    start: Detector that this function made, or "scratch"; None for the embedded
      one. The other arguments are as `train` takes them.

  Returns:
    TrainReport, with the scores before and after.

  Example:
    >>> import delf
    >>> delf.train_detector("no_boxes.csv", "no_photos", "my_boxes")
    Traceback (most recent call last):
      ...
    FileNotFoundError: ...
  """
  from delf.learning.finetune import detector, run

  options = run.TrainOptions(
    start=start,
    minutes=MINUTES if minutes is None and steps is None else minutes,
    steps=steps,
    rate=rate,
    batch=batch,
    seed=seed,
    rotate=rotate,
  )
  sources, boxes = listed(sources), os.fspath(boxes)
  first = ["delf", "train-detector", boxes]
  command = _command(first, sources, out, options)
  with _shown(progress):
    return detector.train(boxes, sources, out, options, overwrite, command)


def _command(first, sources, out, options):
  """Return the command that does the same, without defaults, as a list."""
  parts = [*first, *sources, "--out", os.fspath(out)]
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if value == field.default:
      continue
    parts.append("--from" if field.name == "start" else f"--{field.name}")
    if field.name != "rotate":
      parts.append(f"{value:g}" if field.name == "minutes" else str(value))
  return parts


def export(
  source: Path,
  out: Path,
  *,
  form: str | None = None,
  format: str | None = None,
  quantize: str | None = None,
  iou: float | None = None,
  scales: Sequence[float] | None = None,
  pool: str = "None",
  normalize: bool = False,
  backbone: str | None = None,
  autoencoder: bool | None = None,
  block3_strides: bool | None = None,
  gem_power: float | None = None,
  config: Path | None = None,
  photos: Sources = (),
  overwrite: bool = False,
) -> "exporting.ExportReport":
  """Write a trained model as SavedModel, `.onnx` or `.tflite`.

  It is run on photos and compared with its source; a model that differs by more
  than rounding is removed, and InputError is raised.

  Args:
    source: Checkpoint, folder of a training or of a model, or known model.
    out: Folder of the SavedModel, or `.onnx` or `.tflite` file.
    form: "local", "global" or "local_and_global"; None for both, or those of
      the SavedModel.
    format: "saved_model", "onnx" or "tflite"; None for that of the name.
    quantize: For `.tflite`: "float16" or "dynamic" (8 bits with a scale).
    iou: Overlap of boxes over which the weaker local feature goes.
    scales: Of the form "global": image scales to fix.
    pool: Of the form "global": pooling over scales, "None", "average" or "sum".
    normalize: Of the form "global": whether the output is L2-normalised.
    backbone: "resnet50", "resnet101" or "compact"; None for that of the source.
    autoencoder: Whether local features are its codes; None: if there is one.
    block3_strides: Whether the model was trained with them; None as the source.
    gem_power: Power of the GeM pooling; None for that of the source, or 3.
    config: `.pbtxt` file to keep with the model.
    photos: Photos to compare on; () for three samples.
    overwrite: Whether a model at `out` is replaced.

  Returns:
    ExportReport, with the largest differences.

  Example:
    >>> import delf
    >>> report = delf.export("delf-compact", "compact.onnx", overwrite=True)
    >>> report.format, report.differences.common > 0.99
    ('onnx', True)
  """
  from delf.learning import export as exporting

  precisions = {None: "float32", "float16": "float16"}
  precisions["dynamic"] = "dynamic-range"
  if quantize not in precisions:
    raise errors.InputError(
      f"quantize must be 'float16' or 'dynamic', not {quantize!r}"
    )
  photos = listed(photos)
  options = exporting.ExportOptions(
    form=form,
    format=format,
    iou=iou,
    input_scales=scales,
    pool_type=pool,
    normalize=normalize,
    precision=precisions[quantize],
    config=None if config is None else os.fspath(config),
    photos=engine.find(photos)[0] if photos else (),
    overwrite=overwrite,
    model=exporting.ModelOptions(
      backbone=backbone,
      use_autoencoder=autoencoder,
      block3_strides=block3_strides,
      gem_power=gem_power,
    ),
  )
  return exporting.export(os.fspath(source), os.fspath(out), options)

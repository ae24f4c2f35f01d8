"""`delf train`: train a compact model on a user's photos."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import shutil
import time
import typing
from collections.abc import Sequence

import numpy as np

from delf.base import errors, files
from delf.learning.finetune import data, measuring, run

if typing.TYPE_CHECKING:
  from delf.python.training.model import delg_model

# Name of the first model with a new global head learned from the classes.
ALONE = "labels alone"

# Folders of the measured models, inside that of the unfinished run.
_FOLDERS = {run.BEFORE: "before", ALONE: "alone", run.AFTER: "after"}
_PICTURE = "match.jpg"
_WARM_UP = 50
# Panels of the learning curve: label of each line, and its key in the rows.
_CURVES = {
  "loss": {
    "descriptors": "local",
    "attention": "attention",
    "keypoints": "keypoint",
  },
  "share of points found": {"training": "found", "held out": "held_out"},
}
# Batches of held-out photos for the learning curve, and pairs in each.
_BATCHES, _PAIRS = 2, 4
# Whitening is learned anew from this many photos or more: with fewer it would
# be worse than that of the first model.
_ENOUGH_TO_WHITEN = 512
_MOST_WHITENED = 2000

# Sentences about the kept model.
_KEPT = {
  run.BEFORE: run.NO_GAIN,
  ALONE: "Its global head is learned from the classes; the rest of the network "
  "is unchanged, since training it brought no gain on held-out photos.",
  run.AFTER: "Its weights are the trained ones.",
}
# Parts of the card, each for some runs.
_ALONE = """
- labels alone: that model, with a new global head learned from the classes."""
_CLASSES = """
- {classes} classes; a fifth of the photos of each is held out and searched \
among all others (none of {singles} classes of fewer than three photos)."""
_LIMITS = """
- Measured with {photos} photos and {real} pairs of two photos: small \
differences are not significant."""
_AGAIN_MINUTES = (
  "The time is fixed, not the number of steps, so another run gives different "
  "weights; with `--steps` they are reproducible."
)
_AGAIN_STEPS = (
  "The same photos, versions and processor give the same weights, whether or "
  "not the run is stopped and resumed."
)


def train(
  photos: Sequence[str | os.PathLike],
  out: str | os.PathLike,
  options: run.TrainOptions,
  overwrite: bool = False,
  command: Sequence[str] = (),
) -> run.TrainReport:
  """Train a compact model on photos; see `run.train`."""
  task = _ModelTask(photos, options)
  return run.train(task, photos, out, overwrite, command)


def find_weights(start: str) -> pathlib.Path | None:
  """Return the file of the first weights; None for "scratch"."""
  from delf.inference import zoo

  if start == run.SCRATCH:
    return None
  path = pathlib.Path(start)
  if not path.exists() and start == zoo.EMBEDDED:
    path = pathlib.Path(zoo.resolve(start))
  if path.is_dir():
    for name in ("weights.npz", run.CHECKPOINT):
      if (path / name).exists():
        return path / name
    message = "the model has no weights.npz, which `delf train` writes"
    raise errors.InputError(message, path=path)
  if path.is_file():
    return path
  if zoo.find(start) is not None:
    raise errors.InputError(
      f"{start} is not of the compact architecture: start from {zoo.EMBEDDED}, "
      "or from a model that `delf train` wrote"
    )
  raise FileNotFoundError(f"{start}: no such model to start from")


def create(weights: pathlib.Path | None, seed: int) -> "delg_model.Delg":
  """Create the compact model that training starts from."""
  import keras

  from delf.learning import compact_model

  if weights is not None and weights.name != compact_model.WEIGHTS:
    return compact_model.from_checkpoint(weights)
  keras.utils.set_random_seed(seed)
  model = compact_model.create()
  if weights is not None:
    compact_model.load(model, weights)
  return model


class _ModelTask(run.Task):
  last = f"{_FOLDERS[run.AFTER]}.json"

  def __init__(
    self, photos: Sequence[str | os.PathLike], options: run.TrainOptions
  ):
    from delf.inference import zoo

    start = zoo.EMBEDDED if options.start is None else options.start
    self._options = dataclasses.replace(options, start=start)
    first = find_weights(start)
    self._create = functools.partial(create, first, options.seed)
    self._sources = sources = data.find(photos, options.labels)
    _check_batch(options.batch, len(sources.paths), "photos")
    more = {}
    if sources.labels is not None:
      labels = "\0".join(map(str, sources.labels))
      digest = run.short_digest(labels.encode(errors="surrogateescape"))
      more["classes"] = f"{len(sources.classes())} classes ({digest})"
    weights = [] if first is None else [first]
    self.settings = run.settings(
      self._options, ("pasted",), sources.paths, weights, **more
    )
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def _phase(self, name):
    """Add the time of a block to that of a phase."""
    begin = time.monotonic()
    try:
      yield
    finally:
      passed = time.monotonic() - begin
      self._seconds[name] = self._seconds.get(name, 0.0) + passed

  def run(self, folder, out):
    options = self._options
    self._folder = folder
    self._create()  # Fail at once if the weights do not fit.
    with self._phase("photos and pairs"):
      self._data = collected = data.collect(
        self._sources, folder, options, measuring.describe
      )
    training, held_out = collected.training, collected.held_out
    pools = {photo.pool for photo in training.photos}
    _check_batch(options.batch, len(pools), "places")
    # At this size the model's own scales suffice.
    pairs = measuring.make_pairs(
      held_out.photos, held_out.pairs, min(320, options.size), options.seed
    )
    if not pairs.true:
      raise errors.InputError(
        f"the {len(held_out.photos)} held-out photos are too narrow for two "
        "views that overlap"
      )
    before = self._measured(run.BEFORE, self._create, pairs)
    scores = {run.BEFORE: before}
    if collected.classes:
      scores[ALONE] = self._measured(
        ALONE, lambda: self._with_head(self._create()), before
      )
    model, learner = self._learn()
    # Includes earlier runs that this one resumed.
    self._seconds["learning"] = learner.seconds
    model = self._with_head(model)
    scores[run.AFTER] = self._measured(run.AFTER, lambda: model, pairs)
    kept = run.best(scores)
    classes, photos = len(collected.classes), len(training.photos)
    in_classes = f" in {classes} classes" if classes else ""
    total = sum(self._seconds.values())
    return run.TrainReport(
      out=out,
      kept=kept,
      steps=learner.step,
      photos=photos,
      held_out=len(held_out.photos),
      scores=scores,
      seconds=self._seconds,
      failed=collected.failures,
      details={"classes": classes, "pairs": len(training.pairs)},
      lines=(
        f"{learner.step} steps on {photos} photos{in_classes} in {total:.0f} s;"
        f" {len(held_out.photos)} photos held out",
        *_aligned(rows(scores)),
        f"{out}: {_KEPT[kept].strip('*')} See {run.CARD} for details.",
      ),
    )

  def _with_head(self, model):
    """Set the whitening and embedding of a model's global descriptor."""
    from delf.learning import compact_model

    side, seed, parts = self._data.training, self._options.seed, []
    with self._phase("global descriptor"):
      enough = len(side.photos) >= _ENOUGH_TO_WHITEN
      if enough or self._options.start == run.SCRATCH:
        photos, pairs = _whitened(side, seed)
        compact_model.whiten(model.backbone, photos, pairs, seed)
        parts.append(
          f"whitened anew with {len(photos)} photos, one view of each, and "
          f"{len(pairs)} pairs of one place"
        )
      else:
        parts.append("whitened as in the first model")
      labelled = np.flatnonzero(side.labels >= 0)
      if len(labelled):
        images = [side.photos[i].image for i in labelled]
        options = compact_model.ClassOptions(seed=seed)
        first, last = compact_model.learn_classes(
          model.backbone, images, side.labels[labelled], options
        )
        parts.append(
          f"fitted by ArcFace to {len(self._data.classes)} classes, the rest "
          f"of the network fixed (loss {first:.3f} to {last:.3f})"
        )
    self._head = ", ".join(parts)
    return model

  def _measured(self, name, create, matching):
    """Export and measure a model, unless an earlier run has done so.

    `matching` is a PairSet, or Scores of a model with the same local features.
    """
    from delf.formats import configs
    from delf.learning import compact_model

    folder = self._folder / _FOLDERS[name]
    path = folder.with_suffix(".json")
    if not path.exists():
      model = create()
      with self._phase("measuring"):
        compact_model.export(model, folder)
        config = configs.read_delf_config(folder / "config.pbtxt")
        scores = matching
        if isinstance(matching, measuring.PairSet):
          scores = measuring.measure(config, matching, folder / _PICTURE)
        if self._data.classes:
          sides = self._data.held_out, self._data.training
          seed = self._options.seed
          scores = measuring.measure_search(config, scores, *sides, seed)
      values = dataclasses.asdict(scores)
      files.write_bytes(path, json.dumps(values).encode())
    return measuring.Scores(**json.loads(files.read_bytes(path)))

  def _learn(self):
    """Train local features; return the model and the learner."""
    from delf.learning import compact_model

    options, training = self._options, self._data.training
    held_out = self._data.held_out
    number = min(_PAIRS, held_out.batch())
    seeds = [(options.seed, 2, i) for i in range(_BATCHES)]
    checks = [self._batch(held_out, number, seed) for seed in seeds]
    model, number = self._create(), training.batch(options.batch)
    rate = options.rate
    if rate is None:
      rate = 1.5e-3 if options.start == run.SCRATCH else 3e-4
    learner = compact_model.CompactTrainer(
      model.backbone,
      model.attention,
      lambda step: self._batch(training, number, (options.seed, step)),
      self._folder / run.CHECKPOINT,
      rate=rate,
      warm_up=_WARM_UP,
      side=options.view,
      held_out=checks,
    )
    self._rate = rate
    self._curve = run.learn(learner, options.budget, self._folder)
    return model, learner

  def _batch(self, side, pairs, seed):
    from delf.learning import view_pairs

    view = self._options.view
    options = view_pairs.Options(pairs=pairs, side=view, seed=seed)
    return view_pairs.Source(side.photos, side.pairs, options).batch()

  def write(self, report, folder):
    from delf.learning import compact_model

    chosen = self._folder / _FOLDERS[report.kept]
    shutil.copytree(chosen, folder, ignore=shutil.ignore_patterns(_PICTURE))
    path = os.fspath(pathlib.Path(report.out).resolve())
    text = compact_model.configuration(path).partition("\n")[2]
    text = f"# A model made by `delf train`; see {run.CARD}.\n{text}"
    files.write_bytes(folder / "config.pbtxt", text.encode())
    for name in (run.BEFORE, run.AFTER):
      picture = self._folder / _FOLDERS[name] / _PICTURE
      shutil.copy(picture, folder / f"match_{name}.jpg")
    _draw_curves(folder / "curves.png", self._curve)
    return report.as_dict() | {"curve": self._curve}

  def card(self, report, command):
    import tensorflow as tf

    options, scores, classes = self._options, report.scores, ""
    parts = "the average precision and the share of solved pairs"
    if number := report.details["classes"]:
      parts = "the average precision, the share of solved pairs and the mAP"
      singles = sum(n < 3 for n in self._sources.classes().values())
      classes = _CLASSES.format(classes=number, singles=singles)
    table = ["| " + " | ".join(row) + " |" for row in rows(scores)]
    table.insert(1, "|---" * (1 + len(scores)) + "|")
    limits, real = "", scores[run.AFTER].real[1]
    if report.held_out < 50 or real < 20:
      limits = _LIMITS.format(photos=report.held_out, real=real)
    gpus = [
      tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
      for gpu in tf.config.list_physical_devices("GPU")
    ]
    cores = f"{os.cpu_count()} processor cores ({platform.machine()})"
    return run.fill_card(
      "model_card.txt",
      report,
      command or ["delf", "train"],
      options=options,
      kept=_KEPT[report.kept],
      failed=len(report.failed),
      held_out_pairs=len(self._data.held_out.pairs),
      classes=classes,
      batch=self._data.training.batch(options.batch),
      budget=f"{options.steps} steps"
      if options.minutes is None
      else f"{options.minutes:g} minutes",
      rate=self._rate,
      head=self._head,
      table="\n".join(table),
      alone=_ALONE if ALONE in scores else "",
      parts=parts,
      phases=", ".join(f"{n} {s:.0f} s" for n, s in report.seconds.items()),
      hardware=", ".join([cores, *gpus]),
      again=_AGAIN_STEPS if options.minutes is None else _AGAIN_MINUTES,
      limits=limits,
    )


def _check_batch(batch, number, units):
  if batch is not None and batch > number:
    raise errors.InputError(
      f"batch is {batch} pairs, more than the number of {units} ({number})"
    )


def _whitened(side, seed):
  """Return up to 2000 photos and the pairs among them."""
  order = np.random.default_rng((seed, 4)).permutation(len(side.photos))
  chosen = np.sort(order[:_MOST_WHITENED])
  index = {int(old): new for new, old in enumerate(chosen)}
  pairs = [
    dataclasses.replace(pair, first=index[one], second=index[two])
    for pair in side.pairs
    if (one := pair.first) in index and (two := pair.second) in index
  ]
  return [side.photos[i] for i in chosen], pairs


def rows(scores: dict[str, measuring.Scores]) -> list[tuple[str, ...]]:
  """Return the cells of a table of scores; the first row is the header."""
  every = list(scores.values())

  def number(value):
    return "none unrelated" if value is None else f"{value:.3f}"

  def counts(name):
    return ("{} of {}".format(*getattr(each, name)) for each in every)

  precisions = (number(each.average_precision) for each in every)
  table = [
    ("held-out photos", *scores),
    ("average precision, true against unrelated pairs", *precisions),
    ("pairs of two photos solved", *counts("real")),
    ("synthetic pairs solved", *counts("synthetic")),
    ("median inliers", *(f"{each.inliers:.0f}" for each in every)),
  ]
  if every[0].nearest is not None:
    maps = (number(each.mean_average_precision) for each in every)
    table.append(("mAP of retrieving photos of the class", *maps))
    table.append(("nearest photo has the same class", *counts("nearest")))
  return [*table, ("overall", *(f"{each.overall():.4f}" for each in every))]


def _aligned(table):
  """Yield the lines of a plain-text table."""
  width = max(len(row[0]) for row in table)
  for name, *values in table:
    yield f"  {name:<{width}}" + "".join(f"{v:>14}" for v in values)


def _draw_curves(path, curve):
  from delf.pictures import figures

  steps = [row["step"] for row in curve]
  panels = {
    heading: {
      label: (steps, [row.get(name, np.nan) for row in curve])
      for label, name in names.items()
    }
    for heading, names in _CURVES.items()
  }
  caption = (
    "found: corresponding points that are mutual nearest neighbours in the "
    "batch; batches of held-out photos have fewer pairs"
  )
  figures.draw_curves(path, panels, "Learning curves", caption)

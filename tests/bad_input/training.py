"""Rows of the table of bad input: `delf train`."""

import functools
import json
import types

import numpy as np
import PIL.Image

from delf.learning import loop
from delf.learning.finetune import run

# What -> (function of a folder and a model that returns arguments, words).
CASES = {}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _photos(folder, *names, good=True):
  """Writes photos of noise, or files that are none."""
  generator = np.random.default_rng(3)
  for name in names:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if good:
      pixels = generator.integers(0, 256, [64, 80, 3], dtype=np.uint8)
      PIL.Image.fromarray(pixels).save(path)
    else:
      path.write_bytes(b"no photo")


def _train(folder, *more, steps=2):
  out = folder.parent / "out"
  told = ["--steps", str(steps), "--from", "scratch"]
  return ["train", str(folder), "--out", str(out), *told, *map(str, more)]


def _ten(start=""):
  return [f"{start}{i}" for i in range(10)]


@_case("training on an empty folder", "images", "in")
def _empty(folder, model):
  return _train(folder)


@_case("training on one photo", "at least 10 photos, not 1")
def _one(folder, model):
  _photos(folder, "a")
  return _train(folder)


@_case(
  "training on photos that are none", "10 photos that can be read", "0.png"
)
def _unreadable(folder, model):
  _photos(folder, *_ten(), good=False)
  return _train(folder)


@_case("training with a class without photos", "in/dog")
def _no_photo(folder, model):
  _photos(folder, *_ten("cat/"))
  (folder / "dog").mkdir()
  return _train(folder)


@_case("training with classes of one photo", "2 classes of 2 photos")
def _lonely(folder, model):
  _photos(folder, *[f"{i}/0" for i in range(10)])
  return _train(folder)


@_case("training with classes of two photos", "no class has 3 photos")
def _none_held_out(folder, model):
  _photos(folder, *[f"{i}/{j}" for i in range(5) for j in range(2)])
  return _train(folder)


@_case("training on photos beside folders of photos", "--labels", "stray")
def _stray(folder, model):
  _photos(folder, *_ten("cat/"), "stray")
  return _train(folder)


@_case("training with classes of an absent photo", "nowhere.png in line 2")
def _absent(folder, model):
  _photos(folder, *_ten())
  labels = folder.parent / "labels.csv"
  labels.write_text("photo,class\nnowhere.png,cat\n")
  return _train(folder, "--labels", labels)


@_case("training with classes of nothing known", "folders, none, or a CSV")
def _no_labels(folder, model):
  _photos(folder, *_ten("cat/"))
  return _train(folder, "--labels", "folder")


@_case("training with classes that a row lacks", "'0.png' in line 2")
def _column(folder, model):
  _photos(folder, *_ten())
  labels = folder.parent / "labels.csv"
  labels.write_text("photo,class\n0.png\n")
  return _train(folder, "--labels", labels)


@_case("training with more pairs in a batch than photos", "photos (10)", "11")
def _batch(folder, model):
  _photos(folder, *_ten())
  return _train(folder, "--batch", 11)


@_case("training with views of an odd size", "multiple of 8", "100")
def _view(folder, model):
  _photos(folder, *_ten())
  return _train(folder, "--view", 100)


@_case("training whose loss is nan", "--rate", "nan", "step 0", "places 3, 5")
def _not_finite(folder, model):
  return functools.partial(
    run.learn, _Diverging(), loop.Budget(steps=2), folder
  )


class _Diverging(loop.FileLearner):
  """A learner whose loss is not finite."""

  def __init__(self):
    super().__init__(lambda step: types.SimpleNamespace(pools=[3, 5]))

  def resume(self):
    pass

  def learn(self, batch, spent):
    return {"loss": np.nan}


@_case("training from a model of another kind", "weights.npz", "tiny")
def _other_model(folder, model):
  _photos(folder, *_ten())
  return _train(folder, "--from", model)


@_case("training from a known model of another architecture", "compact", "r50")
def _known_model(folder, model):
  _photos(folder, *_ten())
  return _train(folder, "--from", "r50delg_gld_20200814")


@_case("training from a model that is missing", "nowhere")
def _no_model(folder, model):
  _photos(folder, *_ten())
  return _train(folder, "--from", folder.parent / "nowhere")


@_case("training from a file of other arrays", "weights.npz", "not the")
def _other_file(folder, model):
  _photos(folder, *_ten())
  np.savez(folder.parent / "weights.npz", a=np.ones(3))
  return _train(folder, "--from", folder.parent / "weights.npz")


def _settings(folder, model):
  """Returns what a training of this folder records of itself."""
  from delf.learning.finetune import model as finetuned

  options = run.TrainOptions(steps=2, start=run.SCRATCH)
  return finetuned._ModelTask([str(folder)], options).settings


@_case("training where a model of other settings is", "steps 9, not 2", "out")
def _finished(folder, model):
  _photos(folder, *_ten())
  settings = _settings(folder, model) | {"steps": 9}
  argv = _train(folder)
  argv[argv.index("--out") + 1] = str(folder.parent / "made" / "out")
  made = folder.parent / "made" / "out"
  made.mkdir(parents=True)
  record = {"settings": settings}
  (made / "training.json").write_text(json.dumps(record))
  return argv


@_case("training where another one is unfinished", "photos", "out.unfinished")
def _unfinished(folder, model):
  _photos(folder, *_ten())
  begun = folder.parent / "out.unfinished"
  begun.mkdir()
  settings = _settings(folder, model) | {"photos": "11 photos (abc)"}
  (begun / "settings.json").write_text(json.dumps(settings))
  (begun / "checkpoint.npz").write_bytes(b"")
  return _train(folder)


@_case("training where something else is", "other things")
def _something(folder, model):
  _photos(folder, *_ten())
  made = folder.parent / "made" / "out"
  made.mkdir(parents=True)
  (made / "mine.txt").write_text("mine")
  argv = _train(folder)
  argv[argv.index("--out") + 1] = str(made)
  return argv


@_case("training in place of something else", "other things", "made/out")
def _replaced(folder, model):
  return [*_something(folder, model), "--overwrite"]


@_case("training where others' files would be lost", "out.unfinished", "other")
def _mine(folder, model):
  _photos(folder, *_ten())
  mine = folder.parent / "out.unfinished"
  mine.mkdir()
  (mine / "mine.txt").write_text("mine")
  return _train(folder)


@_case("training to a folder among the photos", "outside", "in/new")
def _inside(folder, model):
  _photos(folder, *_ten())
  argv = _train(folder)
  argv[argv.index("--out") + 1] = str(folder / "new")
  return argv

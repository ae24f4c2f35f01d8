"""Methods to compare: RootSIFT and models, each a function of a photo."""

import dataclasses
import hashlib
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
import tqdm

from delf.base import files
from delf.formats import features
from delf.learning import view_pairs
from delf.matching import geometry

ROOT_SIFT = "RootSIFT"
_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Code that the results of RootSIFT depend on.
_SOURCES = (
  "benchmarks/shared/methods.py",
  "benchmarks/shared/pair_errors.py",
  "benchmarks/shared/pair_results.py",
  "benchmarks/shared/held_out_queries.py",
  "delf/aggregation/*.py",
  "delf/evaluation/pair_metrics.py",
  "delf/indexes/*.py",
  "delf/matching/*.py",
)


@dataclasses.dataclass(frozen=True)
class Estimation:
  """How the features of two photos are matched.

  Attributes:
    estimator: Of `retrieval.matching`.
    share: Residual threshold as a share of the second photo's longer side.
    ratio: Of the ratio test, or None.
  """

  estimator: str = geometry.HOMOGRAPHY
  share: float = 0.015
  ratio: float | None = 0.95


def root_sift(image, number=4096):
  """Return features.LocalFeatures of a photo uint8 [H, W, 3], as RootSIFT."""
  keypoints, descriptors = view_pairs.root_sift(image, number, contrast=0.04)
  if not keypoints:
    return features.LocalFeatures.empty(128)
  return features.LocalFeatures(
    locations=np.float32([k.pt for k in keypoints])[:, ::-1],
    scales=np.float32([k.size for k in keypoints]),
    descriptors=descriptors,
    attention=np.float32([k.response for k in keypoints]),
  )


def config_of(model):
  """Return the DelfConfig of a model.

  Args:
    model: Name of a model, folder of one, or path of a `.pbtxt` file.
  """
  from delf.inference import zoo

  if str(model).endswith(".pbtxt"):
    return zoo.choose(config_path=model)
  return zoo.choose(model=model)


def labels(names):
  """Return {label: model}, with short labels where these tell them apart."""
  short = [pathlib.Path(name).stem for name in names]
  if len(set(short)) < len(short):
    short = [str(name) for name in names]
  return dict(zip(short, names, strict=True))


def local(model):
  """Return a function from a photo to the LocalFeatures by a model."""
  from delf.inference import extractor

  config = config_of(model)
  config.use_local_features, config.use_global_features = True, False
  made = extractor.make_extractor(config, device="cpu")
  return lambda image: made.extract(image).local


def global_descriptor(model):
  """Return a function from a photo to its descriptor [D], or None."""
  from delf.inference import extractor

  config = config_of(model)
  config.use_local_features, config.use_global_features = False, True
  made = extractor.make_extractor(config, device="cpu")
  return lambda image: made.extract(image).global_descriptor


def extract(pairs, function, label):
  """Return {key: LocalFeatures} of the photos of a set, and says how many."""
  found, seconds = {}, 0.0
  for key in tqdm.tqdm(
    pairs.keys(), desc=f"{label} features", file=sys.stderr, mininterval=5
  ):
    image = pairs.load(key)
    start = time.perf_counter()
    found[key] = function(image)
    seconds += time.perf_counter() - start
  number = np.mean([len(each) for each in found.values()])
  print(
    f"{pairs.name}, {label}: {number:.0f} features and"
    f" {seconds / len(found):.3f} s per photo",
    flush=True,
  )
  return found


def remembered(function, images, *parts):
  """Return the result of a function, cached by photos, settings and code.

  Args:
    function: Takes no arguments and returns a value for JSON.
    images: Iterable of uint8 arrays.
    *parts: Settings that the result depends on, compared by `repr`.
  """
  digest = hashlib.sha256(repr(parts).encode())
  for pattern in _SOURCES:
    for path in sorted(_ROOT.glob(pattern)):
      digest.update(path.read_bytes())
  for image in images:
    digest.update(repr(image.shape).encode() + image.tobytes())
  folder = pathlib.Path(tempfile.gettempdir()) / "delf_model_quality"
  path = folder / f"{digest.hexdigest()[:32]}.json"
  if path.exists():
    return json.loads(path.read_text())
  found = function()
  folder.mkdir(exist_ok=True)
  files.write_bytes(path, json.dumps(found).encode())
  return found

"""Retrieval of `mini_roxford5k` by models and by RootSIFT with RANSAC."""

import json
import pathlib
import sys
import tempfile

import numpy as np
import tqdm

from benchmarks import retrieval_quality
from benchmarks.shared import methods
from delf.evaluation import ground_truth, metrics
from delf.indexes import ranking
from delf.matching import matcher
from delf.python import utils

ROOT_SIFT = "RootSIFT + RANSAC"
GLOBAL = "global"
VERIFIED = ("global + verification", "ASMK* + verification")
_WAYS = (GLOBAL, *VERIFIED)


def measure_model(data, model, quick=False):
  """Return {way: {protocol: (mAP, mean precisions)}} of a model.

  Args:
    data: Folder of the data sets.
    model: Name, folder or configuration.
    quick: Whether to leave verification out, and to train few words.
  """
  ways = _WAYS[:1] if quick else _WAYS
  rows = {way: retrieval_quality.ROWS[way] for way in ways}
  with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    codebook = None
    if not quick:
      codebook = retrieval_quality.train_codebook(data, work, False, model)
    return retrieval_quality.measure(data, work, codebook, rows, model)


def measure_root_sift(data, estimation):
  """Return {protocol: (mAP, mean precisions)} of RootSIFT, all pairs matched.

  Args:
    data: Folder of the data sets.
    estimation: methods.Estimation; photos are ranked by inliers.
  """
  folder = data / "mini_roxford5k"
  truth = ground_truth.read(str(folder / "gnd.json"))
  index = [_read(folder, name) for name in truth.index_names]
  asked = _queries(folder)
  counts = methods.remembered(
    lambda: _inliers(asked, index, estimation), asked + index, estimation
  )
  found = metrics.evaluate(ranking.top_k(counts).ids, truth)
  return {
    protocol: (each.mean_average_precision, each.mean_precisions)
    for protocol, each in found.protocols.items()
  }


def _read(folder, name):
  return np.asarray(utils.RgbLoader(folder / "jpg" / f"{name}.jpg"))


def _queries(folder):
  """Return the crops of the queries by their boxes."""
  content = json.loads((folder / "gnd.json").read_text())
  images = []
  for name, entry in zip(content["qimlist"], content["gnd"], strict=True):
    image = _read(folder, name)
    left, top, right, bottom = np.rint(entry["bbx"]).astype(int)
    images.append(image[max(top, 0) : bottom, max(left, 0) : right])
  return images


def _inliers(asked, index, estimation):
  """Return the inliers of each query with each photo, [Q][N] int."""
  local = [methods.root_sift(image) for image in asked]
  counts = [[] for _ in asked]
  for image in tqdm.tqdm(index, "RootSIFT", file=sys.stderr, mininterval=5):
    features = methods.root_sift(image)
    for row, query in zip(counts, local, strict=True):
      found = matcher.match(
        query,
        features,
        ratio=estimation.ratio,
        estimator=estimation.estimator,
        residual_threshold=estimation.share * max(image.shape[:2]),
      )
      row.append(found.score)
  return counts

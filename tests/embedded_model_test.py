"""The model that comes with the package: it loads, and tells photos apart."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from skimage import data

from delf.inference import extractor, zoo
from delf.matching import matcher

_MOST_BYTES = 12 * 2**20

# Prints whether operations run on one core each, and writes features.
_ON_CORES = """
import sys
import numpy as np
from skimage import data
from delf.inference import saved_model, extractor, zoo
one_core = saved_model.use_one_core_each("cpu")
made = extractor.make_extractor(zoo.default_config("delf-compact"), "cpu")
found = [made.extract(data.coffee()[:200, : 600 - 37 * i]) for i in range(4)]
local = [f.local for f in found]
rows = [np.c_[f.locations, f.scales, f.descriptors] for f in local]
np.savez(sys.argv[1], *rows)
print(one_core, saved_model.use_one_core_each("cpu"))
"""


@pytest.fixture(scope="module")
def extract():
  config = zoo.default_config("delf-compact")
  return extractor.make_extractor(config, device="cpu").extract


@pytest.fixture(scope="module")
def stereo(extract):
  left, right, _ = data.stereo_motorcycle()
  return extract(left), extract(right)


def test_is_small_enough_for_a_wheel():
  folder = pathlib.Path(zoo.resolve("delf-compact"))
  sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
  assert 0 < sum(sizes) <= _MOST_BYTES


def test_says_how_it_was_made():
  folder = pathlib.Path(zoo.resolve("delf-compact"))
  card = (folder / "MODEL_CARD.md").read_text()
  for words in ("Data", "Method", "Measurements", "Limits"):
    assert f"## {words}" in card


def test_features_are_of_unit_length_and_inside(stereo):
  local = stereo[0].local
  assert 1000 < len(local) <= 2000
  norms = np.linalg.norm(local.descriptors, axis=1)
  np.testing.assert_allclose(norms, 1, atol=1e-5)
  assert (local.locations >= 0).all()
  assert (local.locations <= [500, 741]).all()
  assert (np.diff(local.attention) <= 0).all()


def test_stereo_pair_matches_along_its_rows(stereo):
  left, right = (features.local for features in stereo)
  result = matcher.match(left, right)
  assert result.is_match and result.score >= 100
  # The pair is rectified: what corresponds lies in the same row.
  rows = (
    left.locations[result.inliers[:, 0], 0]
    - right.locations[result.inliers[:, 1], 0]
  )
  assert np.mean(np.abs(rows) < 10) > 0.9


def test_unrelated_photos_do_not_match(extract, stereo):
  for other in (data.astronaut(), data.coffee()):
    result = matcher.match(stereo[0].local, extract(other).local)
    assert not result.is_match


def _grey(value, height, width):
  return np.full([height, width, 3], value, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 400), (768, 1024), (120, 160)])
def test_blank_images_do_not_match(extract, size):
  blanks = [_grey(value, *size) for value in (0, 128, 200, 255)]
  rising = np.linspace(0, 255, size[1]).round().astype(np.uint8)
  blanks.append(np.broadcast_to(rising[None, :, None], (*size, 3)))
  blanks.append(_grey(90, 200, 300))
  found = [extract(np.ascontiguousarray(blank)).local for blank in blanks]
  for one in found[:-1]:
    assert not matcher.match(found[1], one).is_match
    assert not matcher.match(one, found[-1]).is_match


def test_global_descriptor_is_nearer_for_the_same_scene(extract, stereo):
  left, right = (features.global_descriptor for features in stereo)
  other = extract(data.coffee()).global_descriptor
  assert left @ right > left @ other + 0.2


@pytest.mark.slow
def test_features_are_the_same_on_any_number_of_cores(tmp_path):
  found = []
  for number, said in (("", "True True"), ("4", "False False")):
    path = tmp_path / f"{number}.npz"
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": number}
    command = [sys.executable, "-c", _ON_CORES, str(path)]
    printed = subprocess.check_output(command, env=environment, text=True)
    assert printed.split("\n")[0] == said
    with np.load(path) as arrays:
      found.append([arrays[name] for name in sorted(arrays)])
  # To the bit on processors with AMX. Kernels for others add in an order that
  # the number of threads decides (1.6e-6 apart on an AMD EPYC), so that scores
  # that are nearly equal may change places.
  cpu = pathlib.Path("/proc/cpuinfo")
  to_the_bit = cpu.exists() and "amx_tile" in cpu.read_text()
  for one, other in zip(*found, strict=True):
    if to_the_bit:
      np.testing.assert_array_equal(one, other)
    else:
      one, other = (
        rows[np.lexsort(rows.T[:3].round(2))] for rows in (one, other)
      )
      np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-3)
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6)

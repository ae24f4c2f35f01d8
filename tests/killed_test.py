"""Commands that kill -9 ends at random moments, and that are then repeated.

The suite kills twice, with features that are there. With photos, the embedded
model and codebooks, and a table of what became of it:

  python -m tests.killed_test --times 10
"""

import argparse
import csv
import json
import os
import pathlib
import sys
import tempfile

import pytest

from tests.killed import inputs as killed_inputs
from tests.killed import runs as killed_runs
from tests.stand_ins import checkout

# Files that have times of other files in them, or lines in the order of work.
_NOT_COMPARED = (".files.json", "extraction_images.jsonl", "codebook.json")


def _tree(folder, printed=None):
  """Returns the content of all files by name, of temporary ones too."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file() and not path.name.endswith(_NOT_COMPARED)
  }


def _mapped_tree(folder, printed):
  """Returns the content of all files, which are those that a mapping lists."""
  with open(folder / "index_mapping.csv", newline="") as file:
    mapped = {row["name"] for row in csv.DictReader(file)}
  assert mapped == {path.stem for path in folder.rglob("*.delf")}
  return _tree(folder)


def _results(folder, printed):
  """Returns the results of a search, without temporary files of it."""
  hidden = [path.name for path in folder.rglob(".*")]
  return json.loads(printed), hidden


def _index(source, *more):
  def arguments(inputs, work):
    options = [str(inputs / each) if "/" in each else each for each in more]
    return ["index", str(inputs / source), "--out", str(work), *options]

  return killed_runs.Case(arguments, None, _tree)


def _search(queries, template):
  def arguments(inputs, work):
    asked = str(inputs / queries)
    return ["search", str(work), asked, "--rerank", "--top", "24", "--json"]

  return killed_runs.Case(arguments, template, _results)


def _regions(inputs, work):
  folder = "delf/python/examples"
  flags = {
    "delf_config_path": checkout.ROOT / folder / "delf_compact_config.pbtxt",
    "detector_model_dir": inputs / "detector",
    "dataset_file_path": inputs / "gnd.pkl",
    "images_dir": inputs / "dataset",
    "output_boxes_dir": work / "boxes",
    "output_features_dir": work / "features",
    "output_index_mapping": work / "index_mapping.csv",
  }
  return [f"--{name}={value}" for name, value in flags.items()]


def _detect(inputs, work):
  options = {
    "--out": work / "boxes",
    "--pictures": work / "pictures",
    "--detector": inputs / "detector",
  }
  words = [str(word) for each in options.items() for word in each]
  return ["detect", str(inputs / "photos"), *words]


def _detect_pictures(inputs, work):
  words = ["--pictures", str(work), "--detector", str(inputs / "detector")]
  return ["detect", str(inputs / "photos"), *words]


def _fit(inputs, work):
  out = str(work / "codebook")
  options = ["--words", "512", "--iterations", "15"]
  return ["fit", "codebook", str(inputs / "many"), "--out", out, *options]


_QUICK = {
  "index of features": _index("features"),
  "search --rerank of features": _search("queries", "features.index"),
  "regions with stand-ins for models": killed_runs.Case(
    lambda inputs, work: [str(inputs / "plain_photos"), str(work)],
    None,
    _mapped_tree,
    program=(str(checkout.ROOT / "tests" / "killed" / "regions.py"),),
  ),
}
_WHOLE = {
  "index of photos": _index("photos"),
  "index --codebook": _index("photos", "--codebook", "words/codebook"),
  "search --rerank of photos": _search("asked", "photos.index"),
  "extract_index_boxes_and_features.py": killed_runs.Case(
    _regions,
    None,
    _mapped_tree,
    program=(
      "-m",
      "delf.python.detect_to_retrieve.extract_index_boxes_and_features",
    ),
  ),
  "detect": killed_runs.Case(_detect, None, _tree),
  "detect --pictures": killed_runs.Case(_detect_pictures, None, _tree),
  "fit codebook": killed_runs.Case(_fit, None, _tree, "codebook.index"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("inputs")
  killed_inputs.make_quick(folder)
  return folder


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("name", _QUICK)
def test_a_killed_run_that_is_repeated_ends_as_any_other(
  name, inputs, tmp_path
):
  killer = killed_runs.Killer(_QUICK[name], inputs, tmp_path, seed=0)
  for _ in range(2):
    _, there, lost, equal = killer.kill()
    assert equal, there
    assert not lost, there


def _table(name, case, inputs, scratch, times, seed):
  """Kills a command so many times; prints a line for each; returns success."""
  killer = killed_runs.Killer(case, inputs, scratch, seed)
  print(f"\n{name}: {killer.end:.1f} s uninterrupted")
  print(f"{'killed at':>9}  {'there':44}  {'lost':4}  equal at the end")
  good = True
  for _ in range(times):
    moment, there, lost, equal = killer.kill()
    good = good and equal and not lost
    word = "yes" if equal else "NO"
    print(f"{moment:7.1f} s  {there or 'nothing':44}  {len(lost):4}  {word}")
    sys.stdout.flush()
  return good


def main():
  """Prints a table for each command; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--times", type=int, default=10)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default="", help="words of a command's name")
  args = parser.parse_args()
  good = True
  with tempfile.TemporaryDirectory() as folder:
    inputs = pathlib.Path(folder, "inputs")
    inputs.mkdir()
    killed_inputs.make_quick(inputs)
    killed_inputs.make_whole(inputs)
    for name, case in (_QUICK | _WHOLE).items():
      if args.only in name:
        with tempfile.TemporaryDirectory() as scratch:
          options = (args.times, args.seed)
          good &= _table(name, case, inputs, scratch, *options)
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())

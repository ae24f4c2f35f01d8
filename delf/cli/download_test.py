import hashlib
import io
import json
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io

from delf.cli import main
from delf.downloads import datasets, transfer
from delf.python.datasets.revisited_op import dataset
from tests.stand_ins import faulty_server


def _tar(names, mode="w:gz"):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as archive:
    for name in names:
      info = tarfile.TarInfo(name)
      info.size = 4
      archive.addfile(info, io.BytesIO(b"jpeg"))
  return buffer.getvalue()


def _truth():
  """Returns ground truth of two index images and a query, as a pickle."""
  labels = {"easy": [0], "hard": [], "junk": [], "bbx": [0.0, 0.0, 9.0, 9.0]}
  content = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": [labels]}
  return pickle.dumps(content)


@pytest.fixture
def site(monkeypatch):
  monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
  with faulty_server.serve() as site:
    site.files = {
      "/gnd_rparis6k.pkl": _truth(),
      "/gnd_rparis6k.mat": _matlab(),
      "/paris_1-v1.tgz": _tar(["paris/defense/a.jpg", "paris/x/b.jpg"]),
      "/paris_2-v1.tgz": _tar(["paris/louvre/q.jpg"]),
    }
    yield site


def _matlab():
  """Returns the same as a Matlab file, which counts from 1."""
  kinds = [(name, object) for name in ("easy", "hard", "junk", "bbx")]
  labels = ([1.0], [], [], [0.0, 0.0, 9.0, 9.0])
  buffer = io.BytesIO()
  content = {
    "imlist": np.array(["a", "b"], object),
    "qimlist": np.array(["q"], object),
    "gnd": np.array([tuple(map(np.array, labels))], kinds),
  }
  scipy.io.savemat(buffer, content)
  return buffer.getvalue()


def _run(capsys, *argv):
  status = main.main(["download", *map(str, argv)])
  found = capsys.readouterr()
  return status, found.out, found.err


def test_paris_lies_as_its_configuration_expects(site, tmp_path, capsys):
  argv = ["rparis6k", "--out", tmp_path, "--mirror", site.root]
  status, out, err = _run(capsys, *argv)
  assert (status, err) == (0, "")
  assert "[3/4] paris_1-v1.tgz: " in out and "2 images" in out
  assert "all 3 images of the ground truth exist" in out
  assert "4 files downloaded" in out
  config = dataset.CreateConfigForTestDataset("rparis6k", str(tmp_path))
  paths = [config["im_fname"](config, i) for i in range(config["n"])]
  paths += [config["qim_fname"](config, i) for i in range(config["nq"])]
  assert [pathlib.Path(p).read_bytes() for p in paths] == [b"jpeg"] * 3
  status, out, err = _run(capsys, *argv, "--json")
  found = json.loads(out)
  assert (status, err) == (0, "")
  assert len(found["skipped"]) == 4 and not found["missing_images"]


def test_images_of_the_ground_truth_that_are_missing(site, tmp_path, capsys):
  site.files["/paris_2-v1.tgz"] = _tar(["paris/louvre/other.jpg"])
  argv = ["rparis6k", "--out", tmp_path, "--mirror", site.root]
  status, _, err = _run(capsys, *argv)
  assert status == 1
  assert err.count("\n") == 1
  assert "1 of the 3 images of the ground truth are missing" in err
  assert "q.jpg" in err


def test_ground_truth_that_is_none_is_refused(site, tmp_path, capsys):
  site.files["/gnd_rparis6k.pkl"] = b"<html>moved</html>"
  site.files["/gnd_rparis6k.mat"] = b"cposix\nsystem\n(S'touch x'\ntR."
  argv = ["rparis6k", "--out", tmp_path, "--mirror", site.root]
  status, out, err = _run(capsys, *argv)
  assert status == 1
  assert err.count("\n") == 2
  assert "gnd_rparis6k.pkl: not a pickle" in err
  assert "gnd_rparis6k.mat: not a Matlab file" in err
  assert "2 files downloaded" in out
  assert not list(tmp_path.glob("gnd_*"))


def test_dry_run_downloads_nothing(site, tmp_path, capsys):
  argv = ["rparis6k", "--out", tmp_path / "new", "--mirror", site.root]
  status, out, err = _run(capsys, *argv, "--dry-run")
  assert (status, err) == (0, "")
  assert not (tmp_path / "new").exists()
  assert out.count("to fetch") == 4
  assert "free on this disk" in out
  _, out, _ = _run(capsys, *argv, "--dry-run", "--json")
  found = json.loads(out)
  assert found["bytes"] == sum(map(len, site.files.values()))
  assert [file["name"] for file in found["files"]] == [
    "gnd_rparis6k.mat",
    "gnd_rparis6k.pkl",
    "paris_1-v1.tgz",
    "paris_2-v1.tgz",
  ]


def test_parts_of_google_landmarks(site, tmp_path, capsys):
  ids = ["0123456789abcdef", "fedcba9876543210"]
  names = [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in ids]
  tars = [_tar([name], "w") for name in names]
  site.files = {"/metadata/test.csv": b"id\n"}
  for task in ("recognition", "retrieval"):
    site.files[f"/ground_truth/{task}_solution_v2.1.csv"] = b"id,x,Usage\n"
  for number, content in zip((3, 5), tars, strict=True):
    name = f"images_{number:03d}"
    md5 = hashlib.md5(content).hexdigest()
    site.files[f"/test/{name}.tar"] = content
    site.files[f"/md5sum/test/md5.{name}.txt"] = f"{md5}  {name}.tar".encode()
  argv = ["gldv2", "--split", "test", "--parts", "3,5", "--out", tmp_path]
  status, out, err = _run(capsys, *argv, "--mirror", site.root)
  assert (status, err) == (0, "")
  for name in names:
    assert (tmp_path / "gldv2_dataset" / "test" / name).exists()
  (tmp_path / "ids.txt").write_text(ids[1])
  status, out, _ = _run(
    capsys, *argv, "--mirror", site.root, "--only", tmp_path / "ids.txt"
  )
  assert "5 already there" in out  # All that is wanted, and more, is.


def test_a_disk_that_is_too_small_is_warned_of(
  site, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(datasets, "free_bytes", lambda out: 10**9)
  argv = ["gldv2", "--split", "train", "--parts", "0-9", "--out", tmp_path]
  _, _, err = _run(capsys, *argv, "--mirror", site.root)
  assert "10.0 GB in all, and 1.0 GB are free" in err


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["oxford"], "roxford5k"),
    (["gldv2"], "--split"),
    (["gldv2", "--split", "all"], "train, index, test"),
    (["gldv2", "--split", "test", "--parts", "9-30"], "parts from 0 to 19"),
    (["roxford5k", "--mirror", "nowhere"], "an address"),
    (["roxford5k", "--only", "x.csv"], "--only is for gldv2"),
    (["gldv2", "--split", "test", "--only", "nowhere.csv"], "nowhere.csv"),
  ],
)
def test_what_is_not_understood(argv, words, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  status, _, err = _run(capsys, *argv)
  assert status == 1
  assert err.count("\n") == 1 and words in err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parts", ["a", "1-", "9-3", "", "1-2-3"])
def test_parts_that_are_none(parts, capsys):
  with pytest.raises(SystemExit):
    _run(capsys, "revisited-1m", "--parts", parts)
  assert "--parts" in capsys.readouterr().err

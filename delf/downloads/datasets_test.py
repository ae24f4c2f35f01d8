import concurrent.futures
import hashlib
import io
import pickle
import tarfile
import threading

import pytest

from delf.base import errors
from delf.downloads import datasets, published, transfer
from delf.python.datasets.sfm120k import sfm120k
from tests.stand_ins import faulty_server

A, B = "0a1b" * 4, "c2d3" * 4  # Ids of two images.


def tar(members, mode="w"):
  """Returns an archive of {name: content, or TarInfo}."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as archive:
    for name, content in members.items():
      info = content
      if not isinstance(content, tarfile.TarInfo):
        info = tarfile.TarInfo(name)
        info.size = len(content)
      archive.addfile(info, None if info is content else io.BytesIO(content))
  return buffer.getvalue()


def landmarks():
  """Returns {path: content} of a site with two parts of the test split."""
  parts = [
    tar({f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg": i.encode() * 9000}) for i in (A, B)
  ]
  found = {
    "/metadata/test.csv": f"id\n{A}\n{B}\n".encode(),
    "/ground_truth/recognition_solution_v2.1.csv": b"id,landmarks,Usage\n",
    "/ground_truth/retrieval_solution_v2.1.csv": b"id,images,Usage\n",
  }
  for number, part in enumerate(parts):
    digest = hashlib.md5(part).hexdigest()
    name = f"images_{number:03d}"
    found[f"/test/{name}.tar"] = part
    found[f"/md5sum/test/md5.{name}.txt"] = f"{digest}  {name}.tar\n".encode()
  return found


@pytest.fixture
def site(monkeypatch):
  monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
  with faulty_server.serve() as site:
    site.files = landmarks()
    yield site


@pytest.fixture
def files():
  return published.files_of("gldv2", ("test",), [0, 1])


def _download(files, site, folder, **options):
  lines = []
  options.setdefault("mirror", site.root)
  report = datasets.download(files, folder, lines.append, **options)
  assert len(lines) == len(files)
  return report


def _tree(folder):
  """Returns {path: content} of what is there for people."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file() and datasets.WORK not in path.parts
  }


def _work(folder):
  """Returns names of what is on its way."""
  found = (folder / datasets.WORK).rglob("*")
  ours = (".done.json", ".lock")
  return sorted(p.name for p in found if not p.name.endswith(ours))


def _images(*ids):
  return {
    f"gldv2_dataset/test/{i[0]}/{i[1]}/{i[2]}/{i}.jpg": i.encode() * 9000
    for i in ids
  }


def test_all_is_where_it_should_be_and_done_once(site, files, tmp_path):
  report = _download(files, site, tmp_path)
  assert report.done == tuple(file.name for file in files)
  assert not report.failed
  found = _tree(tmp_path)
  assert found.items() >= _images(A, B).items()
  assert set(found) - set(_images(A, B)) == {
    f"gldv2_dataset/test/{name}"
    for name in (
      "test.csv",
      "recognition_solution_v2.1.csv",
      "retrieval_solution_v2.1.csv",
    )
  }
  assert not _work(tmp_path)
  site.paths.clear()
  report = _download(files, site, tmp_path)
  assert report.skipped == tuple(file.name for file in files)
  assert not site.paths
  # What was deleted since is done again, and all of it with `force`.
  (tmp_path / "gldv2_dataset" / "test" / "test.csv").unlink()
  assert _download(files, site, tmp_path).done == ("metadata/test.csv",)
  assert _tree(tmp_path) == found
  assert len(_download(files, site, tmp_path, force=True).done) == len(files)


def test_goes_on_within_a_file(site, files, tmp_path):
  size = len(site.files["/test/images_000.tar"])
  site.cuts = [None] * 3 + [size // 2] + [0] * 20
  report = _download(files[:4], site, tmp_path)
  (failure,) = report.failed
  assert failure.path == "test/images_000.tar"
  assert f"stopped after {size // 2} bytes" in failure.reason
  assert not _images(A).items() & _tree(tmp_path).items()
  site.cuts.clear()
  site.requests.clear()
  ((_, state, left),) = datasets.plan(files[3:4], tmp_path)
  assert (state, left) == ("begun", 500_000_000 - size // 2)
  report = _download(files[:4], site, tmp_path)
  assert report.done == ("test/images_000.tar",)
  assert site.requests[0] == f"bytes={size // 2}-"
  assert _images(A).items() <= _tree(tmp_path).items()


def test_a_run_that_was_killed_while_unpacking(site, files, tmp_path):
  work = tmp_path / datasets.WORK
  left = work / ".test_images_000.tar.unpacked.0123"
  left.mkdir(parents=True)
  (left / "half.jpg").write_bytes(b"half")
  (work / "test_images_000.tar").write_bytes(site.files["/test/images_000.tar"])
  assert _download(files[3:4], site, tmp_path).done == ("test/images_000.tar",)
  assert site.paths == ["/md5sum/test/md5.images_000.txt"]
  assert _tree(tmp_path) == _images(A)
  assert not _work(tmp_path)


def test_two_runs_side_by_side_fetch_each_file_once(site, files, tmp_path):
  site.pause = 0.01
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    runs = [pool.submit(_download, files, site, tmp_path) for _ in range(2)]
    reports = [run.result() for run in runs]
  names = sorted(file.name for file in files)
  assert sorted(reports[0].done + reports[1].done) == names
  assert sorted(reports[0].skipped + reports[1].skipped) == names
  assert len(site.paths) == len(set(site.paths)) == len(site.files)
  assert _images(A, B).items() <= _tree(tmp_path).items()


def test_several_files_at_once(site, files, tmp_path):
  # Each archive waits for the other to have been asked for.
  waiting = threading.Barrier(2, timeout=30)
  site.before = lambda path: path.endswith(".tar") and waiting.wait()
  report = _download(files, site, tmp_path, at_once=2)
  assert sorted(report.done) == sorted(file.name for file in files)
  assert _images(A, B).items() <= _tree(tmp_path).items()
  site.files.pop("/test/images_000.tar")
  site.before = lambda path: None
  report = _download(files, site, tmp_path, at_once=6, force=True)
  assert [failure.path for failure in report.failed] == ["test/images_000.tar"]
  assert len(report.done) == 4


def test_another_md5_is_reported_kept_and_may_be_taken(site, files, tmp_path):
  site.files["/md5sum/test/md5.images_000.txt"] = b"0" * 32
  report = _download(files, site, tmp_path)
  (failure,) = report.failed
  assert failure.path == "test/images_000.tar"
  for word in ("MD5 " + "0" * 32, "--ignore-checksum", ".unexpected"):
    assert word in failure.reason
  assert len(report.done) == 4  # The other part among them.
  assert report.exit_status == 1
  assert _work(tmp_path) == ["test_images_000.tar.unexpected"]
  site.paths.clear()
  report = _download(files, site, tmp_path, ignore_checksum=True)
  assert report.done == ("test/images_000.tar",)
  assert "/test/images_000.tar" not in site.paths
  assert _images(A, B).items() <= _tree(tmp_path).items()
  assert not _work(tmp_path)


def test_a_download_stays_when_its_md5_cannot_be_had(site, files, tmp_path):
  md5 = site.files.pop("/md5sum/test/md5.images_000.txt")
  assert len(_download(files, site, tmp_path).failed) == 1
  site.files["/md5sum/test/md5.images_000.txt"] = md5
  site.paths.clear()
  assert len(_download(files, site, tmp_path).done) == 1
  assert site.paths == ["/md5sum/test/md5.images_000.txt"]


def _link():
  info = tarfile.TarInfo("link.jpg")
  info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
  return info


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (tar({"../../../evil.jpg": b"x"}), "a name that leads out of it"),
    (tar({"/evil.jpg": b"x"}), "a name that leads out of it"),
    (tar({"a.jpg": b"x", "link.jpg": _link()}), "a link"),
    (tar({"a.jpg": b"x" * 5000})[:3000], "cannot be read as a whole tar"),
    (tar({"a.jpg": b"x" * 5000}, "w:gz")[:-9], "cannot be read as a whole tar"),
    (b"<html>not here</html>" * 100, "cannot be read as a whole tar"),
    (tar({"a.txt": b"x"}), "no *.jpg"),
  ],
  ids=["above", "absolute", "link", "cut", "gzip cut", "no tar", "no photo"],
)
def test_archives_that_are_refused(site, tmp_path, content, words):
  files = published.files_of("revisited-1m", parts=[3, 4])[1:]
  site.files = {
    "/revisitop1m.3.tar.gz": content,
    "/revisitop1m.4.tar.gz": tar({"0/a.jpg": b"good"}, "w:gz"),
  }
  report = _download(files, site, tmp_path / "out")
  (failure,) = report.failed
  assert words in failure.reason
  assert "\n" not in failure.reason
  # The other is done, and nothing is left of this one, here or elsewhere.
  assert _tree(tmp_path) == {"out/revisitop1m/jpg/0/a.jpg": b"good"}
  assert not _work(tmp_path / "out")


def test_a_folder_in_place_of_a_network(site, files, tmp_path):
  folder = tmp_path / "usb"
  for name, content in site.files.items():
    # CSV files and checksums lie as at the site, archives all in one place.
    inside = name[1:] if "images" not in name else name.rpartition("/")[2]
    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
    (folder / inside).write_bytes(content)
  before = _tree(folder)
  report = _download(files, site, tmp_path / "out", mirror=str(folder))
  assert len(report.done) == len(files)
  assert _images(A, B).items() <= _tree(tmp_path / "out").items()
  assert not site.paths
  assert _tree(folder) == before
  (folder / "images_001.tar").write_bytes(b"another")
  (folder / "images_000.tar").unlink()
  report = _download(
    files, site, tmp_path / "out", mirror=str(folder), force=True
  )
  reasons = [failure.reason for failure in report.failed]
  assert "the mirror has no such file" in reasons[0]
  assert "MD5" in reasons[1]
  assert (folder / "images_001.tar").read_bytes() == b"another"


def test_only_some_images(site, files, tmp_path):
  (tmp_path / "clean.csv").write_text(f"landmark_id,images\n7,{B} {'9' * 16}\n")
  only = datasets.read_ids(tmp_path / "clean.csv")
  # As names that are not UTF-8 come out of an archive.
  assert B in only and "\udcff" not in only
  report = _download(files, site, tmp_path / "out", only=only)
  assert not report.failed
  images = {k: v for k, v in _tree(tmp_path / "out").items() if "jpg" in k}
  assert images == _images(B)
  assert not _download(files, site, tmp_path / "out", only=only).done
  # All is more than was done; some is less than all.
  assert len(_download(files, site, tmp_path / "out").done) == 2
  assert not _download(files, site, tmp_path / "out", only=only).done


def test_the_former_address_is_tried(site, tmp_path):
  site.files = {"/old.tar": tar({"a.jpg": b"1"})}
  urls = (f"{site.root}/new.tar", f"{site.root}/old.tar")
  file = published.RemoteFile("x.tar", urls, "images", flatten=True)
  report = _download([file], site, tmp_path, mirror=None)
  assert report.done == ("x.tar",)
  assert site.paths == ["/new.tar", "/old.tar"]
  gone = published.RemoteFile("y.tar", urls[:1], "images")
  report = _download([gone], site, tmp_path, mirror=None)
  assert "HTTP status 404" in report.failed[0].reason


def test_nested_images_into_one_folder(site, tmp_path):
  site.files = {
    "/x.tar": tar({"paris/b/1.jpg": b"1", "paris/c/2.jpg": b"2", "p/t": b"t"})
  }
  file = published.RemoteFile(
    "x.tar", (f"{site.root}/x.tar",), "images", flatten=True
  )
  _download([file], site, tmp_path, mirror=None)
  assert _tree(tmp_path) == {"images/1.jpg": b"1", "images/2.jpg": b"2"}
  site.files["/x.tar"] = tar({"b/1.jpg": b"1", "c/1.jpg": b"other"})
  report = _download([file], site, tmp_path, mirror=None, force=True)
  assert "two images are named 1.jpg" in report.failed[0].reason
  assert _tree(tmp_path)["images/1.jpg"] == b"1"


def test_a_page_in_place_of_a_csv_file_is_refused(site, files, tmp_path):
  site.files["/metadata/test.csv"] = b"<!DOCTYPE html><html></html>"
  report = _download(files[:1], site, tmp_path)
  assert "a web page or binary data, not text" in report.failed[0].reason
  assert not _tree(tmp_path)


def test_plan_says_what_there_is_to_do(site, files, tmp_path):
  _download(files[:2], site, tmp_path)
  site.paths.clear()
  entries = list(datasets.plan(files, tmp_path, mirror=site.root))
  csv = len(site.files["/ground_truth/retrieval_solution_v2.1.csv"])
  assert [entry[1:] for entry in entries] == [
    ("there", 0),
    ("there", 0),
    ("to fetch", csv),
    ("to fetch", 500_000_000),
    ("to fetch", 500_000_000),
  ]
  site.files = {}
  (entry,) = datasets.plan(files[2:3], tmp_path, mirror=site.root)
  assert entry[1:] == ("to fetch", None)


def test_what_cannot_be_a_mirror(files, tmp_path):
  with pytest.raises(errors.InputError, match="an address"):
    datasets.download(files, tmp_path, print, mirror="ftp://x")
  (tmp_path / "ids.txt").write_text("no ids here")
  with pytest.raises(errors.InputError, match="16 hexadecimal digits"):
    datasets.read_ids(tmp_path / "ids.txt")


def test_pairs_and_their_photos_lie_where_training_looks(site, tmp_path):
  ids = ["0123456789abcdef", "00000000fedcba98"]
  pairs = {"cids": ids, "cluster": [0, 0], "qidxs": [0], "pidxs": [1]}
  by_mode = pickle.dumps({"train": pairs, "val": pairs})
  name = "retrieval-SfM-120k"
  site.files = {
    f"/dbs/{name}.pkl": by_mode,
    f"/dbs/{name}-whiten.pkl": pickle.dumps(pairs),
    "/dbs/retrieval-SfM-30k-whiten.pkl": pickle.dumps(pairs),
    f"/{name}-val-eccv2020.pkl": pickle.dumps({"val": [1]}),
    "/ims/ims.tar.gz": tar({f"x/{i}": i.encode() for i in ids}, "w:gz"),
  }
  files = published.files_of("sfm120k")
  report = _download(files, site, tmp_path)
  assert [failure.path for failure in report.failed] == [
    f"{name}-val-eccv2020.pkl"
  ]
  data = sfm120k.CreateDataset("val", str(tmp_path))
  for path, content in zip(data.images, ids, strict=True):
    with open(path, "rb") as file:
      assert file.read() == content.encode()
  assert not _download(files[:-1], site, tmp_path).done

import importlib.metadata
import json
import re
import sys

import pytest

from delf.base import errors
from delf.cli import doctor, main
from delf.extraction import extract
from delf.inference import zoo


@pytest.fixture
def checks(monkeypatch):
  def bad():
    raise errors.InputError("expected a wheel, received none", path="car")

  def install(*names):
    known = {"good": lambda: ("four wheels", {"wheels": 4}), "bad": bad}
    monkeypatch.setattr(doctor, "CHECKS", {name: known[name] for name in names})

  return install


def test_all_is_well(checks, capsys):
  checks("good")
  assert main.main(["doctor"]) == 0
  out, err = capsys.readouterr()
  assert out.startswith("OK   good           four wheels (")
  assert out.endswith("All is well.\n")
  assert err == ""


def test_a_failure_does_not_end_the_others(checks, capsys):
  checks("bad", "good")
  assert main.main(["doctor"]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("FAIL bad")
  assert "car: expected a wheel, received none" in lines[0]
  assert lines[1].startswith("OK   good")
  assert lines[2] == "Failed: bad."


def test_json(checks, capsys):
  checks("good", "bad")
  assert main.main(["doctor", "--json"]) == 1
  report = json.loads(capsys.readouterr().out)
  assert report["ok"] is False
  good, bad = report["checks"]
  assert (good["ok"], good["facts"]) == (True, {"wheels": 4})
  assert (bad["ok"], bad["name"]) == (False, "bad")


# Loading TensorFlow and the model is left to the command's own test.
LIGHT = ["versions", "downloads", "embedded model", "feature files"]


@pytest.fixture
def light(monkeypatch):
  checks = {name: doctor.CHECKS[name] for name in LIGHT}
  monkeypatch.setattr(doctor, "CHECKS", checks)


def _results():
  return {result.name: result for result in doctor.run_checkup()}


def test_what_there_is(light):
  results = _results()
  assert list(results) == LIGHT
  versions = results["versions"].facts["versions"]
  assert versions["numpy"] == importlib.metadata.version("numpy")
  assert {"delf", "Python", "tensorflow", "protobuf"} <= set(versions)
  assert results["feature files"].ok
  assert results["downloads"].facts["free_bytes"] > 0


def test_a_missing_embedded_model_fails_by_its_name(
  light, monkeypatch, tmp_path
):
  monkeypatch.setattr(zoo, "folder", lambda known: tmp_path / "gone")
  result = _results()["embedded model"]
  assert not result.ok
  assert str(tmp_path / "gone") in result.detail
  assert "\n" not in result.detail


def test_a_package_without_tensorflow(light, monkeypatch):
  monkeypatch.setitem(doctor.CHECKS, "devices", doctor.check_devices)
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  results = _results()
  assert "tensorflow" in results.pop("devices").detail
  assert results["feature files"].ok


def test_missing_and_old_packages_are_named(light, monkeypatch):
  def version(name):
    if name == "scipy":
      raise importlib.metadata.PackageNotFoundError(name)
    return "0.1" if name == "numpy" else actual(name)

  actual = importlib.metadata.version
  monkeypatch.setattr(importlib.metadata, "version", version)
  result = _results()["versions"]
  assert not result.ok
  assert re.search(
    r"wrong packages: numpy 0\.1 and not >=[\d.]+, no scipy", result.detail
  )


def test_an_uninstalled_package_says_so(light, monkeypatch):
  def requires(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "requires", requires)
  assert "pip install" in _results()["versions"].detail


def test_a_folder_of_downloads_that_cannot_be_made(
  light, monkeypatch, tmp_path
):
  (tmp_path / "file").write_bytes(b"")
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "file" / "cache"))
  result = _results()["downloads"]
  assert not result.ok
  assert str(tmp_path / "file") in result.detail


def test_digest_depends_on_names_and_content(tmp_path):
  def digest(**contents):
    for path in tmp_path.iterdir():
      path.unlink()
    for name, content in contents.items():
      (tmp_path / name).write_bytes(content)
    return extract.fingerprint(tmp_path)

  first = digest(a=b"1", b=b"22")
  assert first == digest(b=b"22", a=b"1")
  others = [digest(a=b"1", b=b"2"), digest(a=b"12", b=b"2"), digest(a=b"1")]
  assert len({first, *others}) == 4


@pytest.fixture
def embedded():
  if not zoo.is_present(zoo.artefact(zoo.EMBEDDED)):
    pytest.skip("the embedded model is not in this checkout")


def test_the_sample_photos_match_as_they_should(embedded):
  words, facts = doctor.check_matching()
  assert facts["same"] >= 3 * facts["different"]
  assert str(facts["same"]) in words

import hashlib
import io
import json
import tarfile

import pytest

from delf.base import errors
from delf.downloads import transfer
from delf.inference import zoo
from tests.stand_ins import faulty_server

NAME = "r50delg_gld_20200814"


def _archive(**files):
  """Returns the bytes of a .tar.gz of a model's folder."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f"{NAME}/{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


ARCHIVE = _archive(**{"saved_model.pb": b"model", "variables/x": b"1"})
OTHER = _archive(**{"saved_model.pb": b"another"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def site(monkeypatch):
  monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
  with faulty_server.serve() as site:
    site.content = ARCHIVE
    yield site


def _install(site, **options):
  return transfer.install(zoo.artefact(NAME), url=site.url, **options)


def _sha256(content):
  return hashlib.sha256(content).hexdigest()


def test_downloads_unpacks_and_records(cache, site):
  folder = _install(site)
  assert folder == zoo.resolve(NAME) == cache / "models" / NAME
  assert (folder / "saved_model.pb").read_bytes() == b"model"
  assert (folder / "variables" / "x").read_bytes() == b"1"
  assert json.loads((cache / "downloads.json").read_text()) == {
    NAME: {"url": site.url, "size": len(ARCHIVE), "sha256": _sha256(ARCHIVE)}
  }
  assert list((cache / "downloads").iterdir()) == []
  assert [path.name for path in (cache / "models").iterdir()] == [NAME]


def test_what_is_there_is_not_downloaded_again(cache, site):
  _install(site)
  _install(site)
  assert len(site.requests) == 1
  _install(site, force=True)
  assert len(site.requests) == 2


def test_another_content_is_refused_and_kept_aside(cache, site):
  folder = _install(site)
  site.content, site.tag = OTHER, '"v2"'
  with pytest.raises(errors.InputError) as error:
    _install(site, force=True)
  assert _sha256(ARCHIVE) in str(error.value)
  assert f"--sha256 {_sha256(OTHER)}" in str(error.value)
  (aside,) = (cache / "downloads").iterdir()
  assert aside.read_bytes() == OTHER
  assert str(aside) in str(error.value)
  assert (folder / "saved_model.pb").read_bytes() == b"model"
  assert transfer.recorded(NAME).sha256 == _sha256(ARCHIVE)


def test_another_content_is_taken_if_its_digest_is_given(cache, site):
  folder = _install(site)
  site.content, site.tag = OTHER, '"v2"'
  _install(site, force=True, sha256=_sha256(OTHER).upper())
  assert (folder / "saved_model.pb").read_bytes() == b"another"
  assert not (folder / "variables").exists()
  assert transfer.recorded(NAME).sha256 == _sha256(OTHER)


def test_the_given_digest_is_compared_at_the_first_download(cache, site):
  with pytest.raises(errors.InputError, match="given"):
    _install(site, sha256=_sha256(OTHER))
  assert not zoo.is_present(zoo.artefact(NAME))
  assert transfer.recorded(NAME) is None


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64])
def test_digests_are_checked_before_the_download(cache, site, digest):
  with pytest.raises(errors.InputError, match="a SHA-256"):
    _install(site, sha256=digest)
  assert site.requests == []


@pytest.mark.parametrize(
  "content",
  [
    b"<html>Log in to this network</html>",
    _archive(readme=b"no model"),
    _archive(**{"saved_model.pb": b"", "../../../evil": b""}),
    ARCHIVE[:-20],
  ],
)
def test_wrong_content_is_neither_installed_nor_recorded(cache, site, content):
  site.content = content
  with pytest.raises(errors.InputError):
    _install(site)
  assert not zoo.is_present(zoo.artefact(NAME))
  assert transfer.recorded(NAME) is None
  site.content, site.tag = ARCHIVE, '"v2"'
  assert (_install(site) / "saved_model.pb").read_bytes() == b"model"


def test_goes_on_after_a_cut_connection(cache, site):
  site.cuts = [100]
  _install(site)
  assert site.requests == [None, "bytes=100-"]


@pytest.mark.parametrize(
  "name", ["delf-compact", "delg_gld_20200520", "google/delf/1"]
)
def test_what_cannot_be_downloaded(cache, site, name):
  with pytest.raises(errors.InputError, match="is not to be downloaded"):
    transfer.install(zoo.artefact(name), url=site.url)
  assert site.requests == []


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"b": 1}}', '{"a": 1}'])
def test_a_damaged_record_is_named(cache, site, text):
  cache.mkdir()
  (cache / "downloads.json").write_text(text)
  with pytest.raises(errors.InputError, match=r"downloads\.json"):
    _install(site)

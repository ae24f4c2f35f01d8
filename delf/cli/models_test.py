import io
import json
import tarfile

import pytest

from delf.cli import main
from delf.downloads import transfer
from delf.inference import zoo
from tests.stand_ins import faulty_server

NAME = "r50delg_gld_20200814"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "cache"))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
  return tmp_path / "cache"


@pytest.fixture
def site():
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    info = tarfile.TarInfo(f"{NAME}/saved_model.pb")
    info.size = 1
    tar.addfile(info, io.BytesIO(b"1"))
  with faulty_server.serve() as site:
    site.content = buffer.getvalue()
    yield site


def _json(capsys, *argv):
  assert main.main(["models", *argv]) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("argv", [["--json"], ["list", "--json"]])
def test_list_as_json(capsys, argv):
  entries = _json(capsys, *argv)
  assert [entry["name"] for entry in entries] == list(zoo.ARTEFACTS)
  urls = {entry["name"]: entry["url"] for entry in entries}
  assert urls[NAME].startswith("https://storage.googleapis.com/delf/")


def test_list_names_each_with_purpose_and_address(capsys):
  assert main.main(["models"]) == 0
  out = capsys.readouterr().out
  for known in zoo.ARTEFACTS.values():
    assert f"  {known.name} " in out
    assert known.purpose in out
    assert known.url is None or known.url in out
  assert "\n\n" in out


def test_download_then_path_list_and_info(capsys, cache, site):
  entry = _json(capsys, "download", NAME, "--url", site.url, "--json")
  assert entry["size"] == len(site.content)
  assert main.main(["models", "path", "r50delg_gld"]) == 0
  assert capsys.readouterr().out == f"{cache / 'models' / NAME}\n"
  states = {each["name"]: each["present"] for each in _json(capsys, "--json")}
  assert states[NAME]
  assert not states["delf_gld_20190411"]
  assert main.main(["models", "info", NAME]) == 0
  out = capsys.readouterr().out
  assert entry["sha256"] in out
  assert "score_threshold: 175" in out
  assert main.main(["models", "download", NAME, "--url", site.url]) == 0
  assert len(site.requests) == 1


def test_download_of_something_else_is_one_line(capsys, site):
  assert (
    main.main(
      ["models", "download", NAME, "--url", site.url, "--sha256", "0" * 64]
    )
    == 1
  )
  out, err = capsys.readouterr()
  assert out == ""
  assert err.count("\n") == 1
  assert err.startswith("delf: error: ")
  assert "0" * 64 in err


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["path", NAME], f"delf models download {NAME}"),
    (["path", "r50delg_gdl"], "r50delg_gld"),
    (["info", "nonsense!"], "`delf models` lists them"),
    (["download", "delg_gld_20200520"], "use r50delg_gld_20200814"),
    (["download", "delf-compact"], "in the package"),
  ],
)
def test_errors_are_one_line(capsys, argv, words):
  assert main.main(["models", *argv]) == 1
  out, err = capsys.readouterr()
  assert (out, err.count("\n")) == ("", 1)
  assert words in err


def test_info_of_a_codebook_has_no_configuration(capsys):
  entry = _json(capsys, "info", "rparis6k_codebook_1024", "--json")
  assert entry["configuration"] is None


@pytest.mark.parametrize("action", ["list", "info", "path", "download"])
def test_each_action_has_help(capsys, action):
  with pytest.raises(SystemExit) as end:
    main.main(["models", action, "--help"])
  assert end.value.code == 0
  assert f"usage: delf models {action}" in capsys.readouterr().out

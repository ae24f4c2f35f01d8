import pathlib
import subprocess
import sys

import pytest
from google.protobuf import text_format

from delf.base import errors
from delf.inference import zoo
from delf.protos import delf_config_pb2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "cache"))
  monkeypatch.chdir(tmp_path)
  return tmp_path / "cache" / "models"


def _make(*parts):
  path = pathlib.Path(*parts)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b"")
  return path


def test_every_published_artefact_is_there():
  assert {a.name for a in zoo.ARTEFACTS.values() if a.url} == {
    "delf_gld_20190411",
    "delf_v1_20171026",
    "r50delg_gld_20200814",
    "r101delg_gld_20200814",
    "r50delg_gldv2clean_20200914",
    "r101delg_gldv2clean_20200914",
    "rn101_af_gldv2clean_20200814",
    "d2r_frcnn_20190411",
    "d2r_mnetssd_20190411",
    "rparis6k_codebook_65536",
    "roxford5k_codebook_65536",
    "rparis6k_codebook_1024",
    "roxford5k_codebook_1024",
    "resnet50_imagenet_weights",
  }


def test_the_embedded_detector_is_known(tmp_path, monkeypatch):
  known = zoo.artefact("delf-boxes")
  assert known.kind == zoo.DETECTOR and known.url is None
  package = pathlib.Path(zoo.__file__).resolve().parents[1]
  assert zoo.folder(known) == package / "embedded" / "delf-boxes"
  monkeypatch.setattr(zoo, "folder", lambda known: tmp_path / "in" / known.name)
  with pytest.raises(errors.InputError) as error:
    zoo.resolve("delf-boxes")
  text = "detector delf-boxes is not on this machine: it is part of the package"
  assert text in str(error.value)
  assert str(tmp_path / "in" / "delf-boxes") in str(error.value)
  model = _make(tmp_path, "in", "delf-boxes", "saved_model.pb").parent
  assert zoo.resolve("delf-boxes") == model


def test_addresses():
  assert zoo.artefact("r50delg_gld_20200814").url == (
    "https://storage.googleapis.com/delf/r50delg_gld_20200814.tar.gz"
  )
  assert zoo.artefact(zoo.EMBEDDED).url is None


def test_names_without_dates_are_unique():
  aliases = [a.alias for a in zoo.ARTEFACTS.values()]
  assert len(set(aliases)) == len(aliases)
  assert zoo.artefact("r50delg_gldv2clean").name == (
    "r50delg_gldv2clean_20200914"
  )


def test_an_existing_path_wins(cache):
  _make(cache, "delf_gld_20190411", "model", "saved_model.pb")
  _make("delf_gld_20190411", "x")
  assert zoo.resolve("delf_gld_20190411") == pathlib.Path("delf_gld_20190411")


@pytest.mark.parametrize(
  "name",
  [
    "delf_gld_20190411",
    "delf_gld",
    "parameters/delf_gld_20190411/model/",
    "parameters/delf_gld_20190411",
    pathlib.Path("delf_gld_20190411/model"),
  ],
)
def test_downloaded_models_are_found(cache, name):
  model = _make(cache, "delf_gld_20190411", "model", "saved_model.pb").parent
  assert zoo.resolve(name) == model


def test_a_model_at_the_top_of_its_folder(cache):
  _make(cache, "r50delg_gld_20200814", "saved_model.pb")
  assert zoo.resolve("r50delg_gld") == cache / "r50delg_gld_20200814"


def test_what_is_not_downloaded_says_how():
  with pytest.raises(errors.InputError) as error:
    zoo.resolve("parameters/r50delg_gld_20200814")
  assert "`delf models download r50delg_gld_20200814`" in str(error.value)


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("delf_compact", "delf-compact"),
    ("R50DELG_GLD_V2_CLEAN", "r50delg_gldv2clean"),
    ("models/delf-gld", "delf_gld"),
  ],
)
def test_unknown_names_list_near_ones(name, near):
  with pytest.raises(errors.InputError, match=near):
    zoo.resolve(name)


@pytest.mark.parametrize("name", ["", "qqqq", "/no/such/folder"])
def test_names_like_none_say_where_the_list_is(name):
  with pytest.raises(errors.InputError, match="`delf models` lists them"):
    zoo.resolve(name)


@pytest.mark.parametrize(
  ("name", "advice"),
  [
    ("delg_gld_20200520", "use r50delg_gld_20200814"),
    ("parameters/delg_gld_20200520", "use r50delg_gld_20200814"),
    ("google/delf/1", "use delf_gld_20190411"),
  ],
)
def test_retired_models_say_what_to_use(name, advice):
  with pytest.raises(errors.InputError, match=advice):
    zoo.resolve(name)


def test_a_codebook_is_not_a_model(cache):
  name = "rparis6k_codebook_65536"
  _make(cache, name, "k65536_codebook_tfckpt", "._codebook.index")
  path = _make(cache, name, "k65536_codebook_tfckpt", "codebook.index")
  with pytest.raises(errors.InputError, match="the codebook"):
    zoo.resolve(name)
  assert zoo.locate(zoo.artefact(name)) == path.with_suffix("")


def test_weights_are_a_file(cache):
  path = _make(cache, "resnet50_imagenet_weights", "resnet50_notop.h5")
  assert zoo.locate(zoo.artefact("resnet50_imagenet_weights")) == path


def test_a_folder_without_a_model_is_an_error(cache):
  _make(cache, "r50delg_gld_20200814", "readme")
  with pytest.raises(errors.InputError, match=r"saved_model\.pb"):
    zoo.resolve("r50delg_gld")


def test_files_of_published_configurations(cache):
  named = "parameters/delf_gld_20190411/pca/mean.datum"
  with pytest.raises(errors.InputError, match="delf models download"):
    zoo.local_path(named)
  path = _make(cache, "delf_gld_20190411", "pca", "mean.datum")
  assert zoo.local_path(named) == path
  assert zoo.local_path("mine/mean.datum") == pathlib.Path("mine/mean.datum")
  _make(named)
  assert zoo.local_path(named) == pathlib.Path(named)


PUBLISHED = {
  "r50delg_gld_20200814": "delg/r50delg_gld_config.pbtxt",
  "r101delg_gld_20200814": "delg/r101delg_gld_config.pbtxt",
  "r50delg_gldv2clean_20200914": "delg/r50delg_gldv2clean_config.pbtxt",
  "r101delg_gldv2clean_20200914": "delg/r101delg_gldv2clean_config.pbtxt",
  "delf_gld_20190411": "examples/delf_config_example.pbtxt",
  "rn101_af_gldv2clean_20200814": (
    "datasets/google_landmarks_dataset/rn101_af_gldv2clean_config.pbtxt"
  ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_settings_are_those_of_the_published_configuration(name):
  package = pathlib.Path(zoo.__file__).resolve().parents[1] / "python"
  config = delf_config_pb2.DelfConfig()
  text_format.Parse((package / PUBLISHED[name]).read_text(), config)
  made = zoo.default_config(name)
  assert made.model_path == name
  assert _settings(made) == _settings(config)


def _settings(config):
  """Returns all that counts, defaults written out, without paths."""
  local, overall = config.delf_local_config, config.delf_global_config
  return {
    "scales": list(config.image_scales),
    "sizes": (config.max_image_size, config.min_image_size),
    "local": config.use_local_features
    and (
      local.max_feature_num,
      local.score_threshold,
      local.iou_threshold,
      local.use_pca,
      local.use_pca and local.pca_parameters.pca_dim,
      local.pca_parameters.use_whitening,
      pathlib.Path(local.pca_parameters.mean_path).parts[-3:],
      pathlib.Path(local.pca_parameters.projection_matrix_path).parts[-3:],
    ),
    "global": config.use_global_features
    and (overall.use_pca, list(overall.image_scales_ind)),
  }


def test_the_embedded_model_brings_its_settings(tmp_path, monkeypatch):
  monkeypatch.setattr(zoo, "folder", lambda known: tmp_path / known.name)
  path = _make(tmp_path, zoo.EMBEDDED, "config.pbtxt")
  path.write_text(
    'model_path: "build/export"\nimage_scales: 0.5\n'
    "delf_local_config { use_pca: false score_threshold: 0.5 }"
  )
  config = zoo.default_config("delf-compact")
  assert config.model_path == "delf-compact"
  assert config.delf_local_config.score_threshold == 0.5


def test_the_embedded_model_is_in_the_package():
  folder = zoo.folder(zoo.artefact("delf-compact"))
  package = pathlib.Path(zoo.__file__).resolve().parents[1]
  assert folder == package / "embedded" / "delf-compact"


@pytest.mark.parametrize("name", ["d2r_frcnn", "rparis6k_codebook_1024"])
def test_settings_are_of_extraction_models_alone(name):
  with pytest.raises(
    errors.InputError, match=f"{name}.* is not an extraction model"
  ):
    zoo.default_config(name)


def test_the_folder_of_caches(monkeypatch, tmp_path):
  monkeypatch.delenv("DELF_CACHE")
  monkeypatch.setattr("os.name", "posix")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert zoo.cache_folder() == tmp_path / "delf"
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  assert zoo.cache_folder() == tmp_path / "home" / ".cache" / "delf"


def test_loads_no_tensorflow():
  code = (
    "import sys; from delf.inference import zoo\n"
    "from delf.downloads import transfer;"
    "assert not {'tensorflow', 'keras'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)

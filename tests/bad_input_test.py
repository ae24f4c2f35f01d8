"""What happens to input that is bad, or odd: one table.

`python -m tests.bad_input_test` prints it.
"""

import contextlib
import errno
import io
import json
import logging
import os
import pathlib
import struct
import sys
import tempfile
import zlib

import numpy as np
import PIL.Image
import pytest

from delf.aggregation import aggregate_files
from delf.base import errors, files
from delf.cli import main
from delf.cli import scripts as cli_scripts
from delf.extraction import extract
from delf.python import box_io, datum_io, feature_io
from delf.python.examples import extract_features

# The checkout, also where this is run as a script.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tests.bad_input import aggregation as bad_aggregation  # noqa: E402
from tests.bad_input import collections as bad_collections  # noqa: E402
from tests.bad_input import datasets as bad_datasets  # noqa: E402
from tests.bad_input import dense_indexes as bad_dense_indexes  # noqa: E402
from tests.bad_input import detection as bad_detection  # noqa: E402
from tests.bad_input import exports as bad_exports  # noqa: E402
from tests.bad_input import fit as bad_fit  # noqa: E402
from tests.bad_input import global_training as bad_global_training  # noqa: E402
from tests.bad_input import indexes as bad_indexes  # noqa: E402
from tests.bad_input import records as bad_records  # noqa: E402
from tests.bad_input import regions as bad_regions  # noqa: E402
from tests.bad_input import retrieval as bad_retrieval  # noqa: E402
from tests.bad_input import search as bad_search  # noqa: E402
from tests.bad_input import supervised as bad_supervised  # noqa: E402
from tests.bad_input import train_detector as bad_train_detector  # noqa: E402
from tests.bad_input import training as bad_training  # noqa: E402
from tests.stand_ins import tiny_model  # noqa: E402

_BAD = {}
_ODD = {}


def _case(table, what, *words):
  """Registers a function (folder, model) -> argv as a case of a table."""

  def register(make):
    table[what] = (make, words)
    return make

  return register


def _photo(path, mode="RGB", size=(80, 64), **options):
  """Writes an image of noise; returns its path."""
  generator = np.random.default_rng(1)
  channels = len(PIL.Image.new(mode, (1, 1)).getbands())
  shape = (size[1], size[0], channels)
  pixels = generator.integers(0, 256, shape, dtype=np.uint8)
  image = PIL.Image.fromarray(pixels.squeeze(), mode)
  image.save(path, **options)
  return path


def _extract(folder, model, *more, config=None):
  """Returns the arguments that extract the images of a folder."""
  config = config or model / "config.pbtxt"
  out = folder.parent / "out"
  return [
    "extract",
    str(folder),
    "--out",
    str(out),
    "--config",
    str(config),
  ] + [str(word) for word in more]


def _list(folder, *lines):
  path = folder.parent / "list.txt"
  path.write_text("\n".join(map(str, lines)))
  return path


def _config(folder, model, change):
  """Writes the model's configuration with a change; returns its path."""
  path = folder.parent / "changed.pbtxt"
  path.write_text(change((model / "config.pbtxt").read_text()))
  return path


# -- images ------------------------------------------------------------------


@_case(_BAD, "missing image", "nowhere.jpg", "no such file")
def _missing(folder, model):
  return _extract(_list(folder, folder / "nowhere.jpg"), model)


@_case(_BAD, "empty image", "a.jpg")
def _empty(folder, model):
  (folder / "a.jpg").write_bytes(b"")
  return _extract(folder, model)


@_case(_BAD, "file that is no image", "a.jpg")
def _not_an_image(folder, model):
  (folder / "a.jpg").write_text("A photo would be here.")
  return _extract(folder, model)


@_case(_BAD, "PNG that cannot be decoded", "a.png")
def _damaged(folder, model):
  data = _photo(folder / "a.png").read_bytes()
  (folder / "a.png").write_bytes(data[:60] + b"\0" * 40 + data[100:])
  return _extract(folder, model)


@_case(_BAD, "JPEG cut within its header", "a.jpg")
def _cut_header(folder, model):
  data = _photo(folder / "a.jpg").read_bytes()
  (folder / "a.jpg").write_bytes(data[:100])
  return _extract(folder, model)


@_case(_BAD, "TIFF cut within its header", "a.tif")
def _cut_tiff(folder, model):
  data = _photo(folder / "a.tif").read_bytes()
  (folder / "a.tif").write_bytes(data[:100])
  return _extract(folder, model)


@_case(_BAD, "image over the pixel limit", "a.png", "30001")
def _huge(folder, model):
  def chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check

  header = struct.pack(">IIBBBBB", 30001, 30001, 8, 2, 0, 0, 0)
  (folder / "a.png").write_bytes(
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    + chunk(b"IEND", b"")
  )
  return _extract(folder, model)


@_case(_BAD, "folder without images", "image")
def _no_images(folder, model):
  return _extract(folder, model)


@_case(_BAD, "missing folder", "nowhere")
def _no_folder(folder, model):
  return _extract(folder / "nowhere", model)


@_case(_BAD, "list that is no text", "list.txt", "text")
def _binary_list(folder, model):
  path = _list(folder)
  path.write_bytes(b"\xff\xfe\0\0")
  return _extract(path, model)


@_case(_BAD, "two images of one output name", "same output name", "a.png")
def _collision(folder, model):
  # The command would tell them apart; the script has the original's names.
  listed = _list(folder, folder / "a.png", folder / "a.jpg")
  return [
    "extract_features.py",
    f"--config_path={model}/config.pbtxt",
    f"--list_images_path={listed}",
    f"--output_dir={folder.parent}/out",
  ]


# -- configurations ----------------------------------------------------------


def _changed(folder, model, change):
  _photo(folder / "a.png")
  return _extract(folder, model, config=_config(folder, model, change))


@_case(_BAD, "configuration that is missing", "no.pbtxt")
def _no_config(folder, model):
  _photo(folder / "a.png")
  return _extract(folder, model, config=folder / "no.pbtxt")


@_case(_BAD, "configuration with an unknown field", "changed.pbtxt", "scalez")
def _field(folder, model):
  return _changed(
    folder, model, lambda text: text.replace("image_scales", "image_scalez")
  )


@_case(_BAD, "configuration with a value of another type", "changed.pbtxt")
def _value(folder, model):
  return _changed(folder, model, lambda text: text.replace("50", '"many"'))


@_case(_BAD, "configuration of a negative scale", "scale")
def _scale(folder, model):
  return _changed(folder, model, lambda text: text.replace("0.5", "-0.5"))


@_case(_BAD, "configuration of no features", "use_local_features")
def _no_heads(folder, model):
  return _changed(
    folder,
    model,
    lambda text: text.replace(
      "use_global_features: true", "use_local_features: false"
    ),
  )


@_case(_BAD, "configuration whose model is missing", "no_model")
def _no_model(folder, model):
  return _changed(folder, model, lambda text: text.replace("tiny", "no_model"))


def _with_pca(text, folder, dimensions=4):
  return text.replace(
    "use_pca: false",
    f"""use_pca: true
  pca_parameters {{
    mean_path: "{folder.parent}/mean.datum"
    projection_matrix_path: "{folder.parent}/matrix.datum"
    pca_dim: {dimensions}
  }}""",
    1,
  )


@_case(_BAD, "configuration whose PCA file is missing", "mean.datum")
def _no_pca(folder, model):
  return _changed(folder, model, lambda text: _with_pca(text, folder))


@_case(_BAD, "PCA mean of another size", "mean", "8", "5")
def _pca_shape(folder, model):
  mean, matrix = folder.parent / "mean.datum", folder.parent / "matrix.datum"
  datum_io.WriteToFile(np.zeros([5], np.float32), str(mean))
  datum_io.WriteToFile(np.eye(8, dtype=np.float32), str(matrix))
  return _changed(folder, model, lambda text: _with_pca(text, folder))


@_case(_BAD, "more PCA dimensions than the matrix has", "9", "8")
def _pca_dimensions(folder, model):
  mean, matrix = folder.parent / "mean.datum", folder.parent / "matrix.datum"
  datum_io.WriteToFile(np.zeros([8], np.float32), str(mean))
  datum_io.WriteToFile(np.eye(8, dtype=np.float32), str(matrix))
  return _changed(folder, model, lambda text: _with_pca(text, folder, 9))


# -- models ------------------------------------------------------------------


def _other_model(folder, **options):
  _photo(folder / "a.png")
  other = folder.parent / "other"
  tiny_model.save(other, **options)
  return other


@_case(_BAD, "model without the local features asked for", "other", "boxes")
def _no_tensors(folder, model):
  other = _other_model(folder, outputs=["global_descriptors"])
  return _extract(folder, other)


@_case(_BAD, "model without the descriptor asked for", "global_descriptor")
def _no_global(folder, model):
  other = _other_model(
    folder, outputs=["boxes", "features", "scales", "scores"]
  )
  return _extract(folder, other)


@_case(_BAD, "model whose file is cut", "other")
def _cut_model(folder, model):
  other = _other_model(folder)
  path = other / "saved_model.pb"
  path.write_bytes(path.read_bytes()[:1000])
  return _extract(folder, other)


@_case(_BAD, "name of no model", "no-such-model", "delf models")
def _no_name(folder, model):
  _photo(folder / "a.png")
  return ["extract", str(folder), "--out", str(folder.parent / "out")] + [
    "--model",
    "no-such-model",
  ]


@_case(_BAD, "model that gives NaN", "a.png", "NaN")
def _nan(folder, model):
  def change(tiny):
    tiny.weights.assign(tiny.weights * np.nan)

  return _extract(folder, _other_model(folder, change=change))


# -- feature files -----------------------------------------------------------


def _feature_file(folder, cut):
  path = folder / "a.delf"
  generator = np.random.default_rng(2)
  feature_io.WriteToFile(
    str(path),
    generator.random([3, 2]),
    generator.random(3),
    generator.random([3, 8]),
    generator.random(3),
  )
  path.write_bytes(path.read_bytes()[:cut])
  return ["info", str(path)]


for _cut in (1, 10, -40, -1):
  _case(_BAD, f"feature file cut at byte {_cut}", "a.delf")(
    lambda folder, model, cut=_cut: _feature_file(folder, cut)
  )


@_case(_BAD, "datum file cut", "a.datum")
def _cut_datum(folder, model):
  path = folder / "a.datum"
  datum_io.WriteToFile(np.ones([100], np.float32), str(path))
  path.write_bytes(path.read_bytes()[:-9])
  return ["info", str(path)]


@_case(_BAD, "file of no known kind", "a.xyz", ".xyz")
def _unknown(folder, model):
  (folder / "a.xyz").write_bytes(b"what")
  return ["info", str(folder / "a.xyz")]


# -- matching ----------------------------------------------------------------


def _match(folder, first, second, *more):
  """Returns the arguments that match two files."""
  picture = folder.parent / "out" / "matches.png"
  return ["match", str(first), str(second), "--out", str(picture), *more]


def _features(path, dimension=8, value=1.0):
  """Writes five local features; returns the path of their file."""
  generator = np.random.default_rng(4)
  descriptors = generator.random([5, dimension])
  descriptors[2, 1] *= value
  locations, ones = generator.random([5, 2]) * 50, np.ones([5])
  feature_io.WriteToFile(str(path), locations, ones, descriptors, ones)
  return path


@_case(_BAD, "match with a photo that is missing", "nowhere.jpg")
def _match_missing(folder, model):
  first, config = _photo(folder / "a.png"), model / "config.pbtxt"
  return _match(folder, first, folder / "nowhere.jpg", "--config", str(config))


@_case(_BAD, "match with an address", "http://example.com/b.jpg", "gs://")
def _match_address(folder, model):
  first, config = _photo(folder / "a.png"), model / "config.pbtxt"
  second = "http://example.com/b.jpg"
  return _match(folder, first, second, "--config", str(config))


@_case(_BAD, "match with an address of no file", "file:///nowhere/b.jpg")
def _match_file_address(folder, model):
  first, config = _photo(folder / "a.png"), model / "config.pbtxt"
  second = "file:///nowhere/b.jpg"
  return _match(folder, first, second, "--config", str(config))


@_case(_BAD, "match with a file that is no image", "b.jpg")
def _match_text(folder, model):
  first, config = _photo(folder / "a.png"), model / "config.pbtxt"
  (folder / "b.jpg").write_text("A photo would be here.")
  return _match(folder, first, folder / "b.jpg", "--config", str(config))


@_case(_BAD, "match of descriptors with NaN", "NaN")
def _match_nan(folder, model):
  first = _features(folder / "a.delf")
  second = _features(folder / "b.delf", value=np.nan)
  return _match(folder, first, second)


@_case(_BAD, "match of descriptors of two sizes", "8", "9")
def _match_dimensions(folder, model):
  first = _features(folder / "a.delf")
  return _match(folder, first, _features(folder / "b.delf", dimension=9))


@_case(_BAD, "match with a feature file that is cut", "b.delf")
def _match_cut(folder, model):
  first, second = _features(folder / "a.delf"), _features(folder / "b.delf")
  second.write_bytes(second.read_bytes()[:-7])
  return _match(folder, first, second)


@_case(_BAD, "picture of an unknown format", "matches.xyz", ".png")
def _match_format(folder, model):
  first, second = _features(folder / "a.delf"), _features(folder / "b.delf")
  argv = _match(folder, first, second)
  argv[argv.index("--out") + 1] = str(folder.parent / "out" / "matches.xyz")
  return argv


# -- outputs -----------------------------------------------------------------


@_case(_BAD, "output folder that is a file", "out", "a file")
def _out_is_a_file(folder, model):
  _photo(folder / "a.png")
  (folder.parent / "out").write_text("mine")
  return _extract(folder, model)


@_case(_BAD, "output folder below a file", "mine", "Not a directory")
def _out_below_a_file(folder, model):
  (folder.parent / "mine").write_text("mine")
  _photo(folder / "a.png")
  argv = _extract(folder, model)
  argv[argv.index("--out") + 1] = str(folder.parent / "mine" / "out")
  return argv


def _script(folder, model, **flags):
  """Returns the arguments of the script that extracts a photo."""
  flags = {
    "config_path": model / "config.pbtxt",
    "list_images_path": _list(folder, _photo(folder / "a.png")),
    "output_dir": folder.parent / "out",
  } | flags
  return ["extract_features.py"] + [f"--{k}={v}" for k, v in flags.items()]


@_case(_BAD, "script with a list that is missing", "no_list.txt")
def _script_list(folder, model):
  return _script(folder, model, list_images_path=folder / "no_list.txt")


@_case(_BAD, "script with an output folder below a file", "Not a directory")
def _script_out(folder, model):
  return _script(folder, model, output_dir=folder / "a.png" / "out")


@_case(_BAD, "script with a configuration below a file", "a.png/config.pbtxt")
def _script_config(folder, model):
  path = folder / "a.png" / "config.pbtxt"
  return _script(folder, model, config_path=path)


@_case(_BAD, "output folder of other settings", "max_image_size", "--overwrite")
def _other_settings(folder, model):
  _photo(folder / "a.png")
  assert _run(_extract(folder, model))[0] == 0
  for path in (folder.parent / "out").glob("a.*"):
    path.unlink()
  return _extract(folder, model, "--max-size", 40)


# -- data sets ---------------------------------------------------------------

for _what, (_make, _words) in (
  bad_datasets.CASES
  | bad_detection.CASES
  | bad_retrieval.CASES
  | bad_aggregation.CASES
  | bad_exports.CASES
  | bad_fit.CASES
  | bad_records.CASES
  | bad_global_training.CASES
  | bad_supervised.CASES
).items():
  _case(_BAD, _what, *_words)(lambda folder, model, make=_make: make(folder))
for _rows in (
  bad_collections.CASES,
  bad_indexes.CASES,
  bad_dense_indexes.CASES,
  bad_regions.CASES,
  bad_search.CASES,
  bad_training.CASES,
  bad_train_detector.CASES,
):
  for _what, (_make, _words) in _rows.items():
    _case(_BAD, _what, *_words)(_make)


# -- odd, but good -----------------------------------------------------------

for _what, (_make, _words) in bad_detection.ODD.items():
  _case(_ODD, _what, *_words)(lambda folder, model, make=_make: make(folder))


def _odd(what, name, words=(), more=()):
  def register(make):
    def argv(folder, model):
      make(folder / name)
      return _extract(folder, model, "--json", *more)

    return _case(_ODD, what, *words)(argv)

  return register


_odd("CMYK JPEG", "a.jpg")(lambda path: _photo(path, "CMYK"))
_odd("grey JPEG", "a.jpg")(lambda path: _photo(path, "L"))
_odd("grey with alpha", "a.png")(lambda path: _photo(path, "LA"))
_odd("alpha", "a.png")(lambda path: _photo(path, "RGBA"))
_odd("WEBP", "a.webp")(_photo)
_odd("TIFF", "a.tif")(_photo)


@_odd("16 bits", "a.png")
def _sixteen_bits(path):
  generator = np.random.default_rng(3)
  pixels = generator.integers(0, 2**16, [64, 80], dtype=np.uint16)
  PIL.Image.fromarray(pixels).save(path)


@_odd("palette", "a.png")
def _palette(path):
  with PIL.Image.open(_photo(path)) as image:
    image.quantize(16).save(path)


@_odd("animated GIF", "a.gif")
def _animated(path):
  with PIL.Image.open(_photo(path.with_suffix(".png"))) as image:
    image.save(path, save_all=True, append_images=[image.rotate(90)] * 2)
  path.with_suffix(".png").unlink()


def _rotated(path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees to the right.
  _photo(path, exif=exif)


_odd("EXIF rotation, as stored", "a.jpg", ("width 80",))(_rotated)
_odd("EXIF rotation, applied", "a.jpg", ("width 64",), ["--rotate"])(_rotated)


@_odd("JPEG that is cut and still decodes", "a.jpg", ("a.jpg", "cut"))
def _cut_jpeg(path):
  data = _photo(path).read_bytes()
  path.write_bytes(data[: len(data) * 2 // 3])


@_odd("image under 10 pixels", "a.png", ("no features",))
def _tiny(path):
  _photo(path, size=(9, 40))


# -- the tests ---------------------------------------------------------------


def _run(argv):
  """Returns exit status, standard output and standard error of a command."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      status = _call(argv)
    except SystemExit as end:
      status = end.code
  return status, out.getvalue(), err.getvalue()


def _call(argv):
  if callable(argv):
    return _call_library(argv)
  scripts = {"extract_features.py": extract_features}
  for more in (
    bad_datasets,
    bad_detection,
    bad_collections,
    bad_retrieval,
    bad_aggregation,
    bad_fit,
    bad_records,
    bad_regions,
    bad_global_training,
    bad_supervised,
  ):
    scripts |= more.SCRIPTS
  if argv[0] in scripts:
    script = scripts[argv[0]]
    return cli_scripts.run(script.main, script.define_flags, argv)
  return main.main(argv)


def _call_library(call):
  """Calls, and words errors as programs do."""
  try:
    call()
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


def _new_folder(parent):
  folder = parent / "in"
  folder.mkdir()
  return folder


def _partial_outputs(folder):
  """Returns files in the output folder that a failed image should not have."""
  out = folder.parent / "out"
  if not out.is_dir():
    return []
  records = (
    extract.RECORD,
    extract.PHOTOS,
    aggregate_files.RECORD,
  )
  return [p.name for p in out.rglob("*") if p.name not in records]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "tiny"
  tiny_model.save(folder)
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("what", _BAD)
def test_bad_input_is_one_clear_line(what, tmp_path, model):
  make, words = _BAD[what]
  folder = _new_folder(tmp_path)
  argv = make(folder, model)
  status, _, err = _run(argv)
  assert status == 1
  assert err.count("\n") == 1, err
  for word in words:
    assert word in err
  assert not _partial_outputs(folder)


@pytest.mark.parametrize("script", [False, True])
def test_a_full_disk_is_one_clear_line(script, tmp_path, model, monkeypatch):
  def full(path, mode):
    open(path, mode).close()
    if mode == "wb":
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return open(path, mode)

  folder = _new_folder(tmp_path)
  argv = _script(folder, model)
  if not script:
    argv = _extract(folder, model)
  monkeypatch.setattr(files, "open", full, raising=False)
  status, _, err = _run(argv)
  assert status == 1
  record = tmp_path / "out" / extract.RECORD
  assert err.endswith(f"{record}: No space left on device\n")
  assert err.count("\n") == 1
  assert not list((tmp_path / "out").iterdir())


def test_a_feature_file_cut_at_any_byte_is_refused(tmp_path):
  whole = pathlib.Path(_feature_file(tmp_path, None)[1])
  data = whole.read_bytes()
  one = len(data) // 3
  accepted = []
  for cut in range(len(data)):
    whole.write_bytes(data[:cut])
    if _run(["info", str(whole)])[0] == 0:
      accepted.append(cut)
  # The format has no length: fewer whole features are a file, too.
  assert accepted == [0, one, 2 * one]


@pytest.mark.parametrize("what", _ODD)
def test_odd_input_is_read(what, tmp_path, model, recwarn, caplog):
  make, words = _ODD[what]
  folder = _new_folder(tmp_path)
  status, out, err = _run(make(folder, model))
  assert status == 0, err
  assert len(json.loads(out)["done"]) == 1
  said = _said(folder, err, recwarn, caplog)
  for word in words:
    assert word in said


def _said(folder, err, warned=(), logged=None):
  """Returns what was said and found, as words to look for."""
  out = folder.parent / "out"
  found = "no features"
  if (out / "a.boxes").exists():
    boxes = box_io.ReadFromFile(out / "a.boxes")[0]
    found = f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}"
    if len(boxes) == 1:
      found += f": {','.join(f'{edge:.3g}' for edge in boxes[0])}"
  elif len(locations := feature_io.ReadFromFile(str(out / "a.delf"))[0]):
    # Patches have 16 pixels, and the image a whole number of them.
    found = f"width {int(locations[:, 1].max() + 8)}"
  return " ".join(
    [
      found,
      err,
      *(str(w.message) for w in warned),
      logged.text if logged else "",
    ]
  )


@contextlib.contextmanager
def _logged():
  """Gives what the library logs as warnings in the meantime."""
  log = io.StringIO()
  handler = logging.StreamHandler(log)
  logger = logging.getLogger("absl")
  logger.addHandler(handler)
  try:
    yield log
  finally:
    logger.removeHandler(handler)


def _print_table():
  """Prints what each input gives."""
  with tempfile.TemporaryDirectory() as parent:
    parent = pathlib.Path(parent)
    tiny_model.save(parent / "tiny")
    print("| input | exit status | says |\n|---|---|---|")
    for i, (what, (make, _)) in enumerate((_BAD | _ODD).items()):
      folder = parent / str(i) / "in"
      folder.mkdir(parents=True)
      with _logged() as log:
        status, _, err = _run(make(folder, parent / "tiny"))
      says = err if status else _said(folder, log.getvalue())
      says = says.replace(str(folder.parent) + os.sep, "")
      print(f"| {what} | {status} | {says.strip()} |")


if __name__ == "__main__":
  _print_table()

import concurrent.futures
import io
import json
import logging
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from delf.base import errors
from delf.protos import delf_config_pb2
from delf.python import utils
from tests.stand_ins import npz

# Where the original is wrong and this library differs, with the reason.
_OVERRIDDEN_IMAGES = {
  "rgb.webp": "WEBP loads; the original cannot read it",
  "truncated_header.jpg": "an InputError in place of an OSError",
  "notimage.jpg": "an InputError in place of an OutOfRangeError",
}
_OVERRIDDEN_SIZES = {
  "bad_ndim2": "a ValueError in place of an AttributeError",
}
# Decoders of other releases may round otherwise.
_JPEG_LEVELS = 2


def _array(*shape):
  return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def _smooth():
  y, x = np.mgrid[:40, :56]
  return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).astype(np.uint8)


def _load(path, **options):
  image = utils.RgbLoader(path, **options)
  assert image.mode == "RGB"
  return np.array(image)


def test_goldens_of_loading(goldens, tmp_path):
  golden = npz.read(goldens / "fe_rgbloader.npz")
  cases = json.loads((goldens / "fe_rgbloader.json").read_text())
  for name in cases:
    path = tmp_path / name
    path.write_bytes(golden[f"bytes|{name}"].tobytes())
    if f"out|{name}" in golden:
      expected = golden[f"out|{name}"].astype(int)
      levels = _JPEG_LEVELS if name.endswith(".jpg") else 0
      assert np.abs(_load(path) - expected).max() <= levels, name
    else:
      assert name in _OVERRIDDEN_IMAGES
      if name == "rgb.webp":
        np.testing.assert_array_equal(
          _load(path), golden["out|rgb.png"], err_msg=name
        )
        continue
      with pytest.raises(errors.InputError, match=name):
        utils.RgbLoader(path)
  assert len(cases) == 18


def _save(path, array, mode=None, **options):
  image = Image.fromarray(array)
  (image.convert(mode) if mode else image).save(path, **options)


def _exif(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


def _save_animation(path, **options):
  frames = [Image.fromarray(_smooth()), Image.fromarray(255 - _smooth())]
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)


def _with_alpha(array):
  alpha = np.zeros([*array.shape[:2], 1], dtype=np.uint8)
  return np.concatenate([array, alpha], axis=2)


_LOSSLESS, _LOSSY, _PALETTE = 0, 12, 50

# Name -> what writes it of an array [H, W, 3], and how far the result may be.
_UNUSUAL = {
  "plain.png": (_save, _LOSSLESS),
  "plain.bmp": (_save, _LOSSLESS),
  "plain.ppm": (_save, _LOSSLESS),
  "plain.tiff": (_save, _LOSSLESS),
  "lossless.webp": (lambda p, a: _save(p, a, lossless=True), _LOSSLESS),
  "lossy.webp": (lambda p, a: _save(p, a, quality=95), _LOSSY),
  "plain.jpg": (lambda p, a: _save(p, a, quality=95), _LOSSY),
  "named_wrongly.png": (lambda p, a: _save(p, a, format="BMP"), _LOSSLESS),
  "cmyk.jpg": (lambda p, a: _save(p, a, "CMYK", quality=95), _LOSSY),
  "cmyk.tiff": (lambda p, a: _save(p, a, "CMYK"), _LOSSY),
  "transparent.png": (lambda p, a: _save(p, _with_alpha(a)), _LOSSLESS),
  "transparent.webp": (
    lambda p, a: _save(p, _with_alpha(a), lossless=True, exact=True),
    _LOSSLESS,
  ),
  "palette.png": (lambda p, a: _save(p, a, "P"), _PALETTE),
  "transparent_palette.png": (
    lambda p, a: _save(p, a, "P", transparency=bytes(256)),
    _PALETTE,
  ),
  "transparent_palette.gif": (
    lambda p, a: _save(p, a, "P", transparency=0),
    _PALETTE,
  ),
  "transparent_colour.png": (
    lambda p, a: _save(p, a, transparency=(0, 0, 0)),
    _LOSSLESS,
  ),
  "exif3.jpg": (
    lambda p, a: _save(p, a, quality=95, exif=_exif(3)),
    _LOSSY,
  ),
  "animated.gif": (lambda p, _: _save_animation(p), _PALETTE),
  "animated.png": (lambda p, _: _save_animation(p), _LOSSLESS),
  "animated.webp": (lambda p, _: _save_animation(p, lossless=True), _LOSSLESS),
}


@pytest.mark.parametrize("name", _UNUSUAL)
def test_unusual_images_load(name, tmp_path):
  if name.endswith("webp") and not features.check("webp"):
    pytest.skip("this Pillow is built without WEBP")
  write, tolerance = _UNUSUAL[name]
  write(tmp_path / name, _smooth())
  found = _load(tmp_path / name).astype(int)
  assert found.shape == _smooth().shape
  assert np.abs(found - _smooth()).mean() <= tolerance / 2
  assert np.abs(found - _smooth()).max() <= tolerance


@pytest.mark.parametrize("extension", ["png", "tiff", "pgm"])
def test_grey_of_16_bits(extension, tmp_path):
  """As in the original it saturates; an option keeps the whole range."""
  values = np.array([[0, 1, 255], [256, 257 * 100, 65535]], dtype=np.uint16)
  path = tmp_path / f"grey.{extension}"
  Image.fromarray(values).save(path)
  np.testing.assert_array_equal(
    _load(path)[:, :, 0], [[0, 1, 255], [255, 255, 255]]
  )
  np.testing.assert_array_equal(
    _load(path, rescale_grey16=True)[:, :, 0], [[0, 0, 0], [0, 100, 255]]
  )


def test_16_bit_grey_that_is_cut_is_warned_of(tmp_path, caplog):
  path = tmp_path / "grey.png"
  for most, options, cut in (
    (255, {}, False),
    (256, {}, True),
    (65535, {"rescale_grey16": True}, False),
  ):
    caplog.clear()
    Image.fromarray(np.array([[0, most]], dtype=np.uint16)).save(path)
    with caplog.at_level(logging.WARNING, logger="absl"):
      _load(path, **options)
    assert ("grey.png: 16-bit grey over 255 is clipped" in caplog.text) == cut


def test_grey_of_32_bits(tmp_path):
  values = np.array([[-(2**31), -1, 0], [255, 256, 2**31 - 1]], dtype=np.int32)
  Image.fromarray(values).save(tmp_path / "grey.tiff")
  np.testing.assert_array_equal(
    _load(tmp_path / "grey.tiff")[:, :, 0], [[0, 0, 0], [255, 255, 255]]
  )


def test_16_bit_grey_takes_few_bytes_a_pixel(tmp_path):
  path = tmp_path / "grey.png"
  Image.fromarray(np.zeros([1000, 1000], dtype=np.uint16)).save(path)
  tracemalloc.start()
  try:
    utils.RgbLoader(path)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 12e6


def test_an_rgb_image_is_not_copied(tmp_path, monkeypatch):
  _save(tmp_path / "a.png", _smooth())
  monkeypatch.setattr(Image.Image, "convert", None)
  np.testing.assert_array_equal(_load(tmp_path / "a.png"), _smooth())


def _png(width, height, depth=8, colour=2, data=b""):
  def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check

  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  return b"".join(
    [
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", header),
      chunk(b"IDAT", zlib.compress(data)),
      chunk(b"IEND", b""),
    ]
  )


def test_colour_of_16_bits_keeps_the_upper_byte(tmp_path):
  pixels = np.array([[[0x12FF, 0x3400, 0xFFFF], [0, 0xFF, 0x100]]], ">u2")
  path = tmp_path / "rgb16.png"
  path.write_bytes(_png(2, 1, 16, 2, b"\0" + pixels.tobytes()))
  np.testing.assert_array_equal(_load(path)[0], [[0x12, 0x34, 255], [0, 0, 1]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_is_applied_on_request_only(orientation, tmp_path):
  path = tmp_path / "turned.png"
  _save(path, _smooth(), exif=_exif(orientation))
  raw, height, width = _smooth(), *_smooth().shape[:2]
  np.testing.assert_array_equal(_load(path), raw)
  turned = _load(path, apply_rotation=True)
  swapped = orientation >= 5
  assert turned.shape[:2] == ((width, height) if swapped else (height, width))
  # Where the first pixel of the file goes.
  row = -1 if orientation in (3, 4, 7, 8) else 0
  column = -1 if orientation in (2, 3, 6, 7) else 0
  np.testing.assert_array_equal(turned[row, column], raw[0, 0])


def _encoded(name, **options):
  stream = io.BytesIO()
  Image.fromarray(_array(64, 64, 3)).save(stream, name, **options)
  return stream.getvalue()


def _float_tiff():
  stream = io.BytesIO()
  Image.fromarray(np.ones([4, 4], dtype=np.float32)).save(stream, "TIFF")
  return stream.getvalue()


# Name -> bytes, and what the error says.
_BAD = {
  "empty.jpg": (b"", "the file is empty"),
  "text.jpg": (b"This is no image.", "a file of another kind"),
  "zeros.png": (bytes(1000), "a file of another kind"),
  "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a file of another kind"),
  "huge.png": (_png(30_001, 30_000), "at most 900000000 pixels.*30001 x 30000"),
  "wide.png": (_png(2**31 - 1, 1), "at most 900000000 pixels"),
  "signature.png": (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
  "no_pixels.png": (_png(64, 64), "cannot be decoded"),
  "cut.png": (_encoded("PNG")[:2000], "cannot be decoded"),
  "cut.gif": (_encoded("GIF")[:1000], "cannot be decoded"),
  "cut.bmp": (_encoded("BMP")[:1000], "cannot be decoded"),
  "cut.tiff": (_encoded("TIFF")[:1000], "cannot be decoded"),
  "cut.webp": (_encoded("WEBP")[:1000], "cannot be decoded"),
  "head.jpg": (_encoded("JPEG")[:100], "cannot be decoded"),
  "marker.jpg": (b"\xff\xd8\xff", "cannot be decoded"),
  "floats.tiff": (_float_tiff(), "an image must have integers, not floats"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_images_fail_in_one_line(name, tmp_path):
  data, pattern = _BAD[name]
  (tmp_path / name).write_bytes(data)
  with pytest.raises(errors.InputError, match=pattern) as caught:
    utils.RgbLoader(tmp_path / name)
  assert str(caught.value).startswith(f"{tmp_path / name}: ")
  assert name == "empty.jpg" or "image" in caught.value.message
  assert "\n" not in str(caught.value)


def test_missing_image(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.jpg"):
    utils.RgbLoader(tmp_path / "none.jpg")
  with pytest.raises(errors.InputError, match="a folder"):
    utils.RgbLoader(tmp_path)


def test_more_pixels_than_pillows_own_limit(tmp_path, monkeypatch):
  """The limit is this module's, whatever the setting of the process."""
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  _save(tmp_path / "a.png", _smooth())
  np.testing.assert_array_equal(_load(tmp_path / "a.png"), _smooth())
  assert Image.MAX_IMAGE_PIXELS == 100


def test_cut_jpeg_loads_with_a_warning(tmp_path, caplog):
  data = _encoded("JPEG", quality=90)
  path = tmp_path / "cut.jpg"
  path.write_bytes(data)
  whole = _load(path)
  path.write_bytes(data[: len(data) * 2 // 3])
  with caplog.at_level(logging.WARNING, logger="absl"):
    found = _load(path)
  assert "cut.jpg: the JPEG is cut" in caplog.text
  np.testing.assert_array_equal(found[:24], whole[:24])
  np.testing.assert_array_equal(found[-8:, -8:], 128)
  assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_broken_bytes_raise_nothing_but_input_errors(
  name, tmp_path, monkeypatch
):
  # Of changed headers; the test should not fill the memory.
  monkeypatch.setattr(utils, "MAX_PIXELS", 10**6)
  rng = np.random.default_rng(8)
  data = np.frombuffer(_encoded(name), dtype=np.uint8)
  path = tmp_path / "broken"
  for _ in range(60):
    changed = data.copy()
    # Mostly in the headers, where it matters.
    places = rng.integers(0, len(data) if rng.random() < 0.5 else 60, 3)
    changed[places] = rng.integers(0, 256, 3)
    path.write_bytes(changed[: rng.integers(1, len(data) + 1)].tobytes())
    try:
      _load(path)
    except errors.InputError as error:
      assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_the_size_is_read_from_the_header(name, tmp_path):
  path = tmp_path / "image"
  path.write_bytes(_encoded(name))
  assert utils.image_size(path) == _load(path).shape[:2]


def test_the_size_of_large_images_obeys_our_limit_alone(
  tmp_path, monkeypatch, recwarn
):
  """Pillow's own limit, of the whole process, would warn or raise."""
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
  path = tmp_path / "image.png"
  path.write_bytes(_encoded("PNG"))
  assert utils.image_size(path) == _load(path).shape[:2]
  assert not recwarn
  monkeypatch.setattr(utils, "MAX_PIXELS", 10)
  with pytest.raises(errors.InputError, match="at most 10 pixels"):
    utils.image_size(path)


def test_the_size_of_what_is_no_image(tmp_path):
  path = tmp_path / "image.png"
  for content in (b"", b"text", _encoded("PNG")[:20]):
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match="image.png") as error:
      utils.image_size(path)
    assert "\n" not in str(error.value)
  with pytest.raises(FileNotFoundError):
    utils.image_size(tmp_path / "none.png")


def test_many_threads_at_once(tmp_path):
  """Whole, cut and bad files beside each other: each has its own outcome."""
  data = _encoded("JPEG")
  contents = {"a.jpg": data, "cut.jpg": data[:-300], "bad.jpg": b"bad"}
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)

  def outcome(name):
    try:
      return np.array(utils.RgbLoader(tmp_path / name)).tobytes()
    except errors.InputError:
      return None

  alone = {name: outcome(name) for name in contents}
  assert alone["bad.jpg"] is None
  assert len({*alone.values()}) == 3
  names = list(contents) * 30
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for name, found in zip(names, pool.map(outcome, names), strict=True):
      assert found == alone[name]


def _config(**sizes):
  return delf_config_pb2.DelfConfig(**sizes)


def test_goldens_of_resizing(goldens):
  golden = npz.read(goldens / "fe_resize.npz")
  cases = json.loads((goldens / "fe_resize.json").read_text())
  cases = {name: case for name, case in cases.items() if name.isdigit()}
  for name, case in cases.items():
    image = golden[f"in_{case['image']}"]
    config = _config(
      max_image_size=case["max_image_size"],
      min_image_size=case["min_image_size"],
      use_square_images=case["use_square_images"],
    )
    if case["status"] != "ok":
      with pytest.raises(ValueError):
        utils.ResizeImage(image, config, case["resize_factor"])
      continue
    found, factors = utils.ResizeImage(image, config, case["resize_factor"])
    np.testing.assert_array_equal(found, golden[f"out_{name}"])
    np.testing.assert_array_equal(factors, golden[f"sf_{name}"])
    assert found.dtype == np.uint8
    assert factors.dtype == np.float64
  assert len(cases) == 39


def test_goldens_of_rounding(goldens):
  cases = json.loads((goldens / "fe_resize.json").read_text())["round_sizes"]
  for name, (size, factors) in cases.items():
    shape, limit = name.split("@")
    height, width = map(int, shape.split("x"))
    image = np.zeros([height, width, 3], dtype=np.uint8)
    found = utils.ResizeImage(image, _config(max_image_size=int(limit)))
    assert list(found[0].shape[:2]) == size, name
    np.testing.assert_allclose(found[1], factors, rtol=1e-15)
  assert len(cases) == 8


@pytest.mark.parametrize(
  ("image", "factor", "pattern"),
  [
    (_array(4, 5, 3), -0.1, "0 or more, not -0.1"),
    (_array(4, 5, 3), np.nan, "0 or more, not nan"),
    (_array(4, 5), 1.0, r"shape \[height, width, 3\], not \[4, 5\]"),
    (_array(4, 5, 4), 1.0, r"shape .*, not \[4, 5, 4\]"),
    (_array(0, 5, 3), 1.0, r"shape .*, not \[0, 5, 3\]"),
    (_array(4, 5, 3) / 255, 1.0, "uint8, not float64"),
    (_array(4, 5, 3), 0.0, "a size limit must be over 0"),
  ],
)
def test_bad_calls_of_resizing(image, factor, pattern):
  with pytest.raises(errors.InputError, match=pattern):
    utils.ResizeImage(image, _config(max_image_size=3), factor)


def test_thin_images_keep_a_pixel():
  found, factors = utils.ResizeImage(
    _array(1000, 1, 3), _config(max_image_size=100)
  )
  assert found.shape == (100, 1, 3)
  np.testing.assert_array_equal(factors, [0.1, 1.0])


def test_a_jpeg_may_be_decoded_smaller(tmp_path):
  random = np.random.default_rng(0)
  small = Image.fromarray(random.integers(0, 255, (4, 6, 3), np.uint8))
  image = small.resize((1200, 800), Image.Resampling.BICUBIC)
  for name in ("a.jpg", "a.png"):
    image.save(tmp_path / name, quality=95)
  read = utils.RgbLoader(tmp_path / "a.jpg", at_least=(250, 160))
  assert read.size == (300, 200)
  expected = np.asarray(image.resize((300, 200)), np.float32)
  assert np.abs(np.asarray(read, np.float32) - expected).mean() < 3
  assert utils.RgbLoader(tmp_path / "a.jpg", at_least=(2000, 9)).size == (
    1200,
    800,
  )
  assert utils.RgbLoader(tmp_path / "a.png", at_least=(9, 9)).size == (
    1200,
    800,
  )
  cut = (tmp_path / "a.jpg").read_bytes()[:-900]
  (tmp_path / "cut.jpg").write_bytes(cut)
  assert utils.RgbLoader(tmp_path / "cut.jpg", at_least=(250, 160)).size == (
    300,
    200,
  )

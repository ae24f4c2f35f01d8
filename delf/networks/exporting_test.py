import os

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.networks import exporting, model_checkpoints, signatures
from delf.python.training.model import delf_model
from tests.stand_ins import tiny_backbone

_SCALES = (0.5, 1.0, 1.5)
# Values of a batch against those of single images: other float32 sums.
_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
  return tiny_backbone.make(use_dim_reduction=True, reduced_dimension=5)


@pytest.fixture(scope="module")
def joint(model, tmp_path_factory):
  path = tmp_path_factory.mktemp("joint") / "export"
  exporting.export(model, path)
  return tf.saved_model.load(path).signatures


def _inputs(function, image, most=20, threshold=0.0, indices=(0, 2)):
  values = {
    "input_image": tf.constant(image),
    "input_images": tf.constant(image),
    "input_scales": tf.constant(_SCALES),
    "input_max_feature_num": tf.constant(most),
    "input_abs_thres": tf.constant(threshold),
    "input_global_scales_ind": tf.constant(indices, tf.int32),
  }
  names = function.structured_input_signature[1]
  return {name: values[name] for name in names}


def _call(function, *arguments, **options):
  outputs = function(**_inputs(function, *arguments, **options))
  return {name: value.numpy() for name, value in outputs.items()}


def test_parts_alone_give_what_the_whole_gives(joint):
  image = tiny_backbone.image()
  whole = _call(joint["serving_default"], image)
  local, global_ = _call(joint["local"], image), _call(joint["global"], image)
  assert set(local) | set(global_) == set(whole)
  assert not set(local) & set(global_)
  assert whole["features"].shape == (20, 5)
  assert whole["global_descriptors"].shape == (2, 6)
  for name, value in {**local, **global_}.items():
    np.testing.assert_allclose(value, whole[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [1, 3])
def test_a_batch_gives_what_single_images_give(joint, number):
  images = np.stack([tiny_backbone.image(seed=i) for i in range(number)])
  images[0] //= 8  # So that lists differ in length.
  threshold = float(_call(joint["local"], images[-1])["scores"][9, 0])
  batch = _call(joint["batch"], images, threshold=threshold)
  local = _call(joint["batch_local"], images, threshold=threshold)
  global_ = _call(joint["batch_global"], images)
  counts = batch["counts"]
  assert counts[-1] == 10 and batch["features"].shape[1] == max(counts)
  for i, image in enumerate(images):
    single = _call(joint["serving_default"], image, threshold=threshold)
    assert len(single["scores"]) == counts[i] == local["counts"][i]
    for name, value in single.items():
      for found in (batch, local, global_):
        if name not in found:
          continue
        row = found[name][i]
        if name != "global_descriptors":
          assert not row[counts[i] :].any()
          row = row[: counts[i]]
        np.testing.assert_allclose(row, value, atol=_TOLERANCE)


def test_nothing_passes_a_high_threshold(joint):
  found = _call(joint["serving_default"], tiny_backbone.image(), threshold=1e9)
  assert found["boxes"].shape == (0, 4)
  assert found["features"].shape == (0, 5)
  assert found["scales"].shape == (0,)
  assert found["scores"].shape == (0, 1)
  images = tiny_backbone.image()[np.newaxis]
  found = _call(joint["batch"], images, threshold=1e9)
  assert found["features"].shape == (1, 0, 5)


def test_no_global_scale_is_an_error(joint):
  image = tiny_backbone.image()
  for name in ("serving_default", "global"):
    with pytest.raises(tf.errors.InvalidArgumentError, match="global scale"):
      _call(joint[name], image, indices=())


def test_one_graph_serves_all_sizes_and_functions(model, tmp_path):
  model.backbone.global_calls = 0
  exporting.export(model, tmp_path / "export")
  # Once with local features and once alone, for six functions.
  assert model.backbone.global_calls == 2
  function = tf.saved_model.load(tmp_path / "export").signatures["local"]
  sizes = [(30, 40), (64, 48), (90, 120), (200, 31)]
  for height, width in sizes:
    # A concrete function cannot be traced again.
    found = _call(function, tiny_backbone.image(height, width))
    assert len(found["scores"]) > 0


def test_calls_of_the_network_are_traced_once(model):
  calls = signatures.Network(model)
  for size in (32, 48, 64):
    calls.local(tf.zeros([1, size, 80, 3]))
    calls.full(tf.zeros([2, size, 80, 3]))
  assert calls.local.experimental_get_tracing_count() == 1
  assert calls.full.experimental_get_tracing_count() == 1


def test_local_part_does_not_hold_the_global_weights(model, tmp_path):
  exporting.export(model, tmp_path / "local", "local")
  exporting.export(model, tmp_path / "global", "global")
  sizes = {}
  for kind in ("local", "global"):
    reader = tf.train.load_checkpoint(
      str(tmp_path / kind / "variables" / "variables")
    )
    shapes = reader.get_variable_to_shape_map()
    sizes[kind] = sum(int(np.prod(shape)) for shape in shapes.values() if shape)
  assert sizes["global"] == sum(
    int(np.prod(v.shape)) for v in model.backbone.variables
  )
  everything = sum(int(np.prod(v.shape)) for v in model.variables)
  # The decoder is there: attention reads what the codes are expanded to.
  left_out = model.backbone.dense.variables + model.attention.bn_conv1.variables
  assert sizes["local"] == everything - sum(
    int(np.prod(v.shape)) for v in left_out
  )


def test_classifiers_are_left_out(tmp_path):
  model = tiny_backbone.make()
  model.init_classifiers(1000)
  exporting.export(model, tmp_path / "export")
  reader = tf.train.load_checkpoint(
    str(tmp_path / "export" / "variables" / "variables")
  )
  shapes = reader.get_variable_to_shape_map().values()
  assert not any(1000 in shape for shape in shapes)


@pytest.mark.parametrize("pool_type", ["None", "average", "sum"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("fixed", [None, _SCALES])
def test_global_pooling(model, tmp_path, pool_type, normalize, fixed):
  exporting.export(
    model,
    tmp_path / "export",
    "global",
    input_scales=fixed,
    pool_type=pool_type,
    normalize=normalize,
  )
  signatures = tf.saved_model.load(tmp_path / "export").signatures
  function = signatures["serving_default"]
  inputs = set(function.structured_input_signature[1])
  assert (inputs == {"input_image"}) == bool(fixed)
  images = np.stack([tiny_backbone.image(seed=i) for i in range(2)])
  found = _call(function, images[1], indices=(0, 1, 2))
  (name,) = found
  descriptors = _by_hand(model, images[1])
  if pool_type != "None":
    pool = {"average": np.mean, "sum": np.sum}[pool_type]
    descriptors = pool(descriptors, axis=0)
  if normalize:
    norms = np.linalg.norm(descriptors, axis=-1, keepdims=True)
    descriptors = descriptors / norms
  plural = pool_type == "None"
  assert name == ("global_descriptors" if plural else "global_descriptor")
  np.testing.assert_allclose(found[name], descriptors, atol=_TOLERANCE)
  batch = _call(signatures["batch_global"], images, indices=(0, 1, 2))
  np.testing.assert_allclose(batch[name][1], descriptors, atol=_TOLERANCE)


def _by_hand(model, image):
  descriptors = []
  for scale in _SCALES:
    size = [round(side * scale) for side in image.shape[:2]]
    pixels = (image[np.newaxis].astype(np.float32) - 128) / 128
    scaled = tf.image.resize(pixels, size)
    descriptors.append(model.global_call(scaled, training=False)[0])
  return np.array(descriptors)


def test_bare_exports_have_one_function(model, tmp_path):
  exporting.export(model, tmp_path / "a", variants=False)
  exporting.export(model, tmp_path / "b", "local", variants=False)
  exporting.export(model, tmp_path / "c", "global", variants=False)
  for name in "abc":
    signatures = tf.saved_model.load(tmp_path / name).signatures
    assert list(signatures) == ["serving_default"]


def test_a_finished_export_is_not_replaced_unless_asked(model, tmp_path):
  path = tmp_path / "export"
  exporting.export(model, path, "local", variants=False)
  before = (path / "saved_model.pb").read_bytes()
  with pytest.raises(errors.InputError, match="finished export"):
    exporting.export(model, path, "global")
  assert (path / "saved_model.pb").read_bytes() == before
  exporting.export(model, path, "global", overwrite=True, variants=False)
  assert (path / "saved_model.pb").read_bytes() != before
  assert os.listdir(tmp_path) == ["export"]


def test_other_files_are_not_replaced_at_all(model, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(errors.InputError, match="other files"):
    exporting.export(model, tmp_path, "local", overwrite=True)
  assert os.listdir(tmp_path) == ["notes.txt"]


def test_an_empty_folder_is_filled(model, tmp_path):
  exporting.export(model, tmp_path, "local", variants=False)
  assert (tmp_path / "saved_model.pb").exists()


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
  def fail(*_, **__):
    raise OSError("disk full")

  monkeypatch.setattr(tf.saved_model, "save", fail)
  with pytest.raises(OSError, match="disk full"):
    exporting.export(model, tmp_path / "export", "local")
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, ""])
def test_no_folder_is_refused(model, path):
  with pytest.raises(errors.InputError, match="folder to export to"):
    exporting.export(model, path, "local")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_cannot_be_are_refused(model, tmp_path, scale):
  with pytest.raises(
    errors.InputError, match=f"over 0 and finite, not .*{scale}"
  ):
    exporting.export(
      model, tmp_path / "export", "global", input_scales=[1.0, scale]
    )


@pytest.mark.parametrize(
  "options, words",
  [
    ({"autoencoder_dimensions": 0}, "autoencoder must be an integer over 0"),
    ({"autoencoder_dimensions": 128.7}, "autoencoder must .*, not 128.7"),
    ({"local_feature_map_channels": float("nan")}, "size of the feature map"),
    (
      {"delg": True, "embedding_layer_dim": -3},
      "size of the embedding layer .* not -3",
    ),
    (
      {"delg": True, "gem_power": 0.0},
      "GeM power must be over 0 and finite, not 0.0",
    ),
    ({"delg": True, "gem_power": float("inf")}, "not inf"),
  ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path, options, words):
  with pytest.raises(errors.InputError, match=words):
    exporting.load_model(tmp_path / "none", backbone="compact", **options)


def test_local_features_need_no_embedding_of_the_same_size(tmp_path):
  other = delf_model.Delf(backbone="compact", embedding_layer_dim=16)
  model_checkpoints.save_weights(other, tmp_path / "weights")
  options = {"backbone": "compact", "block3_strides": False}
  with pytest.raises(errors.InputError, match="of another shape"):
    exporting.load_model(tmp_path / "weights", **options)
  model = exporting.load_model(tmp_path / "weights", parts=["local"], **options)
  np.testing.assert_array_equal(
    model.backbone.local.kernel, other.backbone.local.kernel
  )


def test_saving_says_nothing_of_temporary_folders(model, tmp_path, caplog):
  caplog.set_level("INFO", "tensorflow")
  exporting.export(model, tmp_path / "export", "local", variants=False)
  assert not [r for r in caplog.records if "Assets" in r.getMessage()]


def test_suppression_is_part_of_the_export(model, tmp_path):
  model.backbone.receptive_field = 40  # So that boxes overlap.
  try:
    exporting.export(model, tmp_path / "export", "local", iou=0.1)
  finally:
    model.backbone.receptive_field = 16
  signatures = tf.saved_model.load(tmp_path / "export").signatures
  images = np.stack([tiny_backbone.image(seed=i) for i in range(2)])
  batch = _call(signatures["batch_local"], images, most=100)
  for i, image in enumerate(images):
    found = _call(signatures["serving_default"], image, most=100)
    assert 1 < len(found["scores"]) == batch["counts"][i]
    np.testing.assert_allclose(
      found["boxes"], batch["boxes"][i][: batch["counts"][i]], atol=_TOLERANCE
    )
    _check_apart(found["boxes"], 0.1)


def _check_apart(boxes, iou):
  low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
  high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
  overlap = np.prod(np.maximum(high - low, 0), axis=2)
  area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
  ratio = overlap / (area[:, None] + area[None, :] - overlap)
  assert (ratio - np.eye(len(boxes))).max() <= iou + 1e-6


def _write(folder, text):
  folder.mkdir()
  (folder / "saved_model.pb").write_text(text)


def _texts(folder):
  """Returns dict of relative path to content of all files below a folder."""
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_the_old_export_stays_until_the_new_one_is_whole(tmp_path):
  _write(tmp_path / "export", "old")
  with exporting.destination(tmp_path / "export", True) as folder:
    _write(folder, "new")
    assert _texts(tmp_path / "export") == {"saved_model.pb": "old"}
  assert _texts(tmp_path) == {"export/saved_model.pb": "new"}


@pytest.mark.parametrize("interrupted", [0, 1])
def test_an_interrupt_while_renaming_leaves_the_old_export(
  tmp_path, monkeypatch, interrupted
):
  _write(tmp_path / "export", "old")
  replace, calls = os.replace, []

  def interrupting(source, target):
    calls.append(source)
    if len(calls) == interrupted + 1:
      raise KeyboardInterrupt
    replace(source, target)

  monkeypatch.setattr(os, "replace", interrupting)
  with (
    pytest.raises(KeyboardInterrupt),
    exporting.destination(tmp_path / "export", True) as folder,
  ):
    _write(folder, "new")
  assert _texts(tmp_path) == {"export/saved_model.pb": "old"}
  assert os.listdir(tmp_path) == ["export"]


def test_an_interrupt_after_renaming_leaves_the_new_export(
  tmp_path, monkeypatch
):
  _write(tmp_path / "export", "old")
  replace = os.replace

  def interrupting(source, target):
    replace(source, target)
    if target == (tmp_path / "export").resolve():
      raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", interrupting)
  with (
    pytest.raises(KeyboardInterrupt),
    exporting.destination(tmp_path / "export", True) as folder,
  ):
    _write(folder, "new")
  assert _texts(tmp_path) == {"export/saved_model.pb": "new"}
  assert os.listdir(tmp_path) == ["export"]


def test_the_current_folder_may_be_the_place(tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  with exporting.destination(".") as folder:
    _write(folder, "new")
  assert _texts(tmp_path) == {"here/saved_model.pb": "new"}


def test_a_link_stays_a_link(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "link").symlink_to("real")
  with exporting.destination(tmp_path / "link") as folder:
    _write(folder, "new")
  assert (tmp_path / "link").is_symlink()
  assert _texts(tmp_path / "real") == {"saved_model.pb": "new"}


@pytest.mark.parametrize(
  "name, words",
  [
    ("file", "folder to export to is a file"),
    ("file/export", "below a file"),
    ("file/deep/export", "below a file"),
    ("nowhere", "a link without a target"),
    ("loop", "a link without a target"),
  ],
)
def test_places_that_cannot_be_are_refused(tmp_path, name, words):
  (tmp_path / "file").write_text("mine")
  (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
  (tmp_path / "loop").symlink_to("loop")
  before = sorted(os.listdir(tmp_path))
  with (
    pytest.raises(errors.InputError, match=words),
    exporting.destination(tmp_path / name, True),
  ):
    pytest.fail("nothing is to be written")
  assert sorted(os.listdir(tmp_path)) == before

import json

import numpy as np
import pytest
import tensorflow as tf

from delf.networks import tensorflow_ops
from delf.python.training.model import export_model_utils


@pytest.fixture(scope="module")
def recorded(goldens):
  with np.load(goldens / "fe_pipeline_fakemodel.npz") as arrays:
    cases = json.loads((goldens / "fe_pipeline_fakemodel.json").read_text())
    return dict(arrays), cases


def _pooled(images):
  return tf.nn.avg_pool2d(images, 16, 16, "SAME")


def _local_fn(arrays):
  def fn(images):
    pooled = _pooled(images)
    attention = tf.einsum("byxc,c->byx", pooled, arrays["Wa"])[..., None]
    return tf.math.softplus(attention), pooled @ arrays["Wf"]

  return fn


def _global_fn(arrays):
  return lambda images: tf.reduce_mean(images, [1, 2]) @ arrays["Wg"]


def _joint_fn(arrays):
  local_fn, global_fn = _local_fn(arrays), _global_fn(arrays)
  return lambda images: (global_fn(images), *local_fn(images))


def _check_local(arrays, prefix, boxes, features, scales, scores):
  assert features.shape[1] == 1024
  np.testing.assert_array_equal(boxes, arrays[f"{prefix}_boxes"])
  np.testing.assert_array_equal(scales, arrays[f"{prefix}_scales"])
  np.testing.assert_allclose(scores, arrays[f"{prefix}_scores"], atol=1e-5)
  np.testing.assert_allclose(
    features[:, :8], arrays[f"{prefix}_feat8"], atol=1e-5
  )


@pytest.mark.parametrize("number", range(15))
def test_local_golden(recorded, number):
  arrays, cases = recorded
  case = cases[f"local{number}"]
  found = export_model_utils.ExtractLocalFeatures(
    arrays["image"],
    tf.constant(case["scales"]),
    case["max_feature_num"],
    case["abs_thres"],
    case["iou"],
    _local_fn(arrays),
    case["stride_factor"],
  )
  _check_local(arrays, f"local{number}", *found)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(15))
def test_local_and_global_golden(recorded, number):
  arrays, cases = recorded
  case = cases[f"local{number}"]
  *found, descriptors = export_model_utils.ExtractLocalAndGlobalFeatures(
    arrays["image"],
    tf.constant(case["scales"]),
    case["max_feature_num"],
    case["abs_thres"],
    tf.constant(case["global_scales_ind"]),
    case["iou"],
    _joint_fn(arrays),
    case["stride_factor"],
  )
  _check_local(arrays, f"local{number}_lg", *found)
  expected = arrays[f"local{number}_lg_global"]
  np.testing.assert_allclose(descriptors, expected, atol=1e-5)


@pytest.mark.parametrize("number", range(36))
def test_global_golden(recorded, number):
  arrays, cases = recorded
  case = cases[f"global{number}"]

  def call():
    return export_model_utils.ExtractGlobalFeatures(
      arrays["image"],
      tf.constant(case["scales"]),
      tf.constant(case["global_scales_ind"], tf.int32),
      _global_fn(arrays),
      case["multi_scale_pool_type"],
      case["normalize_global_descriptor"],
    )

  if case["status"] == "raises":
    with pytest.raises(tf.errors.InvalidArgumentError, match="global scale"):
      call()
    return
  np.testing.assert_allclose(call(), arrays[f"global{number}"], atol=1e-5)


def test_unknown_pooling_is_refused(recorded):
  arrays, _ = recorded
  with pytest.raises(ValueError, match="multi_scale_pool_type must be"):
    export_model_utils.ExtractGlobalFeatures(
      arrays["image"], [1.0], [0], _global_fn(arrays), "max"
    )


def test_joint_extraction_of_nothing_global_is_refused(recorded):
  arrays, _ = recorded
  with pytest.raises(tf.errors.InvalidArgumentError, match="global scale"):
    export_model_utils.ExtractLocalAndGlobalFeatures(
      arrays["image"],
      tf.constant([1.0]),
      10,
      0.0,
      tf.zeros([0], tf.int32),
      1.0,
      _joint_fn(arrays),
      1.0,
    )


def test_global_part_runs_only_where_it_is_used(recorded):
  arrays, _ = recorded
  runs = []

  def model_fn(images):
    size = tf.numpy_function(
      lambda shape: runs.append(tuple(shape[1:3])) or np.int32(0),
      [tf.shape(images)],
      tf.int32,
      stateful=False,
    )
    descriptor = _global_fn(arrays)(images) + tf.cast(size, tf.float32)
    return descriptor, *_local_fn(arrays)(images)

  export_model_utils.ExtractLocalAndGlobalFeatures(
    arrays["image"],
    tf.constant([0.25, 0.5, 1.0]),
    10,
    0.0,
    tf.constant([1]),
    1.0,
    model_fn,
    1.0,
  )
  assert runs == [(75, 101)]


@pytest.mark.parametrize("depth", [1, 128, 1024])
def test_any_depth(depth):
  _, features, _, scores = export_model_utils.ExtractLocalFeatures(
    np.zeros([40, 50, 3], np.uint8),
    tf.constant([0.5, 1.0]),
    5,
    0.0,
    1.0,
    lambda x: (
      _pooled(x)[..., :1],
      tf.repeat(_pooled(x), depth, -1)[..., :depth],
    ),
    1.0,
  )
  assert features.shape == [0, depth]
  assert scores.shape == [0, 1]


def test_receptive_field_is_an_argument():
  boxes, *_ = export_model_utils.ExtractLocalFeatures(
    np.full([32, 32, 3], 200, np.uint8),
    tf.constant([1.0]),
    5,
    0.0,
    1.0,
    lambda x: (_pooled(x)[..., :1], _pooled(x)),
    1.0,
    receptive=(31, 16, 8),
  )
  np.testing.assert_array_equal(
    boxes, [[-8, -8, 22, 22], [-8, 8, 22, 38], [8, -8, 38, 22], [8, 8, 38, 38]]
  )


def test_attention_that_is_not_a_number_is_kept_to_be_seen():
  scores = export_model_utils.ExtractLocalFeatures(
    np.full([32, 48, 3], 200, np.uint8),
    tf.constant([1.0]),
    2,
    0.5,
    1.0,
    lambda x: (_pooled(x)[..., :1] * float("nan"), _pooled(x)),
    1.0,
  )[3]
  assert scores.shape == [2, 1] and np.all(np.isnan(scores))


@pytest.mark.parametrize("iou", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("most", [0, 5, 50, 120])
def test_suppression_golden(goldens, iou, most):
  with np.load(goldens / "fe_nms.npz") as golden:
    boxes, scores = golden["boxes"], golden["scores"]
    expected = golden[f"sel_iou{iou}_max{most}"]
  found = tensorflow_ops.LocalFeatures(
    tf.constant(boxes), None, None, scores, None
  )
  selection = tensorflow_ops.Selection(most, 0.0, iou)
  np.testing.assert_array_equal(
    tensorflow_ops.select(found, selection), expected
  )


@pytest.mark.parametrize("iou", [0.5, 1.0])
def test_suppression_of_a_hundred_thousand_boxes(iou):
  generator = np.random.default_rng(5)
  corners = generator.uniform(0, 5000, [100_000, 2])
  boxes = np.concatenate([corners, corners + 60], 1).astype(np.float32)
  scores = generator.uniform(size=len(boxes)).astype(np.float32)
  found = tensorflow_ops.LocalFeatures(
    boxes, None, None, tf.constant(scores), None
  )
  kept = tensorflow_ops.select(found, tensorflow_ops.Selection(500, 0.0, iou))
  assert len(kept) == 500
  best = np.argsort(-scores, kind="stable")
  assert kept[0] == best[0]
  if iou == 1.0:
    np.testing.assert_array_equal(kept, best[:500])


def test_pyramid_sizes_golden(goldens):
  golden = json.loads((goldens / "fe_pyramid_sizes.json").read_text())
  for name, sizes in golden["sizes"].items():
    height, width = (int(side) for side in name.split("x"))
    for scale, size in zip(golden["scales"], sizes, strict=True):
      found = tensorflow_ops.scaled_size(height, width, scale)
      assert list(found.numpy()) == size


def test_resize_golden(goldens):
  with np.load(goldens / "fe_tf_resize.npz") as golden:
    image = golden["in_image"]
    for name in golden:
      if not name.startswith("bilinear_"):
        continue
      height, width = (int(side) for side in name[9:].split("x"))
      if (height, width) == (round(13 * height / 13), round(17 * height / 13)):
        scaled = tensorflow_ops.resize(image, height / 13)
        np.testing.assert_allclose(scaled, golden[name], atol=2e-6)

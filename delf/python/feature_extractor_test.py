import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.inference import extractor
from delf.python import feature_extractor
from tests.stand_ins import npz


def test_goldens_of_pixels(goldens):
  golden = npz.read(goldens / "fe_normalize.npz")
  normalize = feature_extractor.NormalizePixelValues
  image = golden["in_image"]
  np.testing.assert_array_equal(normalize(image), golden["fe_default"])
  np.testing.assert_array_equal(
    normalize(image, 127.5, 127.5), golden["fe_127p5"]
  )
  assert normalize(image).dtype == tf.float32


def test_goldens_of_receptive_boxes(goldens):
  golden = npz.read(goldens / "fe_receptive_boxes.npz")
  number = sum(name.startswith("args") for name in golden)
  assert number == 6
  for index in range(number):
    height, width, rf, stride, padding = golden[f"args{index}"].tolist()
    boxes = feature_extractor.CalculateReceptiveBoxes(
      height, width, rf, stride, padding
    )
    assert boxes.dtype == tf.float32
    np.testing.assert_array_equal(boxes, golden[f"boxes{index}"])
    centers = feature_extractor.CalculateKeypointCenters(boxes)
    np.testing.assert_array_equal(centers, golden[f"centers{index}"])


def _parameters(golden, whiten):
  return {
    "matrix": golden["in_matrix"],
    "mean": golden["in_mean"],
    "dim": int(golden["in_dim"]),
    "use_whitening": bool(whiten),
    "variances": golden["in_variances"],
  }


@pytest.mark.parametrize("whiten", [0, 1])
def test_goldens_of_pca(whiten, goldens):
  golden = npz.read(goldens / "fe_pca.npz")
  data, boxes = golden["in_data"], golden["delfpost_boxes"]
  parameters = _parameters(golden, whiten)
  np.testing.assert_allclose(
    feature_extractor.ApplyPcaAndWhitening(
      data,
      parameters["matrix"],
      parameters["mean"],
      parameters["dim"],
      parameters["use_whitening"],
      parameters["variances"],
    ),
    golden[f"apply_whiten{whiten}"],
    atol=2e-6,
  )
  dim = parameters["dim"]
  frozen = extractor.PcaParameters(
    mean=parameters["mean"],
    matrix=parameters["matrix"][:dim],
    variances=parameters["variances"][:dim] if whiten else None,
  )
  for given in (parameters, frozen):
    np.testing.assert_allclose(
      feature_extractor.PostProcessDescriptors(data, True, given),
      golden[f"post_pca_whiten{whiten}"],
      atol=2e-6,
    )
  locations, descriptors = feature_extractor.DelfFeaturePostProcessing(
    boxes, data, True, parameters
  )
  np.testing.assert_array_equal(
    locations, golden[f"delfpost_loc_whiten{whiten}"]
  )
  np.testing.assert_allclose(
    descriptors, golden[f"delfpost_desc_whiten{whiten}"], atol=2e-6
  )


def test_goldens_without_pca(goldens):
  golden = npz.read(goldens / "fe_pca.npz")
  data = golden["in_data"]
  post = feature_extractor.PostProcessDescriptors
  np.testing.assert_allclose(post(data, False), golden["post_nopca"], atol=2e-6)
  np.testing.assert_allclose(
    post(data * np.float32(1e-7), False), golden["post_nopca_tiny"], atol=2e-6
  )
  empty = post(data[:0], False)
  assert empty.shape == golden["post_empty"].shape
  locations, descriptors = feature_extractor.DelfFeaturePostProcessing(
    golden["delfpost_boxes"], data, False
  )
  np.testing.assert_array_equal(locations, golden["delfpost_loc_nopca"])
  np.testing.assert_allclose(
    descriptors, golden["delfpost_desc_nopca"], atol=2e-6
  )


def test_all_works_in_a_graph_of_unknown_sizes():
  @tf.function(
    input_signature=[
      tf.TensorSpec([], tf.int32),
      tf.TensorSpec([None, 3], tf.float32),
    ]
  )
  def graph(side, descriptors):
    boxes = feature_extractor.CalculateReceptiveBoxes(
      side, side, 291.0, 16.0, 145.0
    )
    return feature_extractor.DelfFeaturePostProcessing(
      boxes,
      descriptors,
      True,
      extractor.PcaParameters(
        mean=np.zeros(3, "f"), matrix=np.eye(3, dtype="f")[:2]
      ),
    )

  locations, descriptors = graph(2, np.ones([4, 3], dtype=np.float32))
  np.testing.assert_array_equal(locations, [[0, 0], [0, 16], [16, 0], [16, 16]])
  np.testing.assert_allclose(descriptors, np.full([4, 2], 0.5**0.5), rtol=1e-6)


def test_parameters_that_are_missing():
  data = np.ones([2, 3], dtype=np.float32)
  with pytest.raises(errors.InputError, match="pca_parameters"):
    feature_extractor.PostProcessDescriptors(data, True)
  with pytest.raises(errors.InputError, match="pca_variances"):
    feature_extractor.ApplyPcaAndWhitening(data, np.eye(3), data[0], 2, True)

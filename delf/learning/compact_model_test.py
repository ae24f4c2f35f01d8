import pathlib
import types

import cv2
import keras
import numpy as np
import pytest
from keras import ops
from skimage import data as skimage_data

from delf.base import errors
from delf.inference import zoo
from delf.learning import compact_model, view_pairs
from delf.networks import backbones, compact, heads


def _model(seed=0, **options):
  keras.utils.set_random_seed(seed)
  return compact_model.create(**options)


@pytest.fixture(scope="module")
def model():
  return _model()


def _arrays(model):
  return [
    keras.ops.convert_to_numpy(v).copy()
    for v in model.backbone.variables + model.attention.variables
  ]


@pytest.mark.slow
def test_weights_come_back_to_half_precision(tmp_path):
  model, other = _model(), _model(seed=1)
  model.backbone.norm1.moving_variance.assign(np.full([48], 1e-9))
  model.backbone.embedding_layer.kernel.assign(
    1e6 * model.backbone.embedding_layer.kernel
  )
  compact_model.save(model, tmp_path)
  compact_model.load(other, tmp_path)
  for one, two in zip(_arrays(model), _arrays(other), strict=True):
    np.testing.assert_allclose(one, two, rtol=5e-4, atol=3e-8)
    if one.ndim < 2:
      np.testing.assert_array_equal(one, two)


def test_the_packaged_model_can_be_trained_on(model):
  folder = pathlib.Path(zoo.resolve("delf-compact"))
  if not (folder / compact_model.WEIGHTS).exists():
    pytest.skip("the embedded model comes without training weights")
  compact_model.load(model, folder)
  assert np.ptp(_arrays(model)[0]) > 0


def test_weights_of_another_size_change_nothing(model, tmp_path):
  compact_model.save(_model(embedding_layer_dim=32), tmp_path)
  before = _arrays(model)
  with pytest.raises(
    errors.InputError, match="embedding_layer.* is .*32.* must be .*256"
  ):
    compact_model.load(model, tmp_path)
  for one, two in zip(before, _arrays(model), strict=True):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("change", ["missing", "nan", "objects", "other"])
def test_damaged_weights_are_refused(model, tmp_path, change):
  compact_model.save(model, tmp_path)
  path = tmp_path / compact_model.WEIGHTS
  with np.load(path) as found:
    arrays = dict(found)
  name = "backbone/stem/kernel"
  if change == "missing":
    del arrays[name]
  elif change == "nan":
    arrays[name] = arrays[name] * np.nan
  elif change == "objects":
    arrays[name] = np.full(arrays[name].shape, "x")
  else:
    arrays["architecture"] = "resnet50"
  np.savez(path, **arrays)
  with pytest.raises(
    errors.InputError,
    match="weights.npz: (not the |weights of another|.* must be)",
  ):
    compact_model.load(model, tmp_path)


def test_a_folder_without_weights_is_named(model, tmp_path):
  with pytest.raises(FileNotFoundError, match="weights.npz"):
    compact_model.load(model, tmp_path)


def _recall(descriptors, groups):
  """Counts photos whose nearest other one is of their group, and queries."""
  units = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
  similarity = units @ units.T
  np.fill_diagonal(similarity, -np.inf)
  nearest = groups[similarity.argmax(1)]
  queries = np.array([(groups == g).sum() > 1 for g in groups])
  return int((nearest == groups)[queries].sum()), int(queries.sum())


def _backbone(rows):
  """A backbone whose images are numbers of rows of what is embedded."""
  layer = keras.layers.Dense(8)
  layer.build([None, rows.shape[1]])
  keras.utils.set_random_seed(0)
  layer.kernel.assign(np.eye(rows.shape[1], 8, dtype=np.float32))
  return types.SimpleNamespace(embedding_layer=layer)


def _embedded_recall(backbone, rows, labels):
  kernel, bias = backbone.embedding_layer.get_weights()
  return _recall(rows @ kernel + bias, labels)[0]


def test_photos_of_a_class_come_nearer(monkeypatch):
  generator = np.random.default_rng(0)
  labels = np.repeat(np.arange(6), 20)
  rows = generator.normal(size=[120, 8])
  rows[:, 6:] *= 6.0  # What says nothing is loud.
  rows[:, :6] += 2.5 * np.eye(6)[labels]
  training = np.arange(120) % 4 > 0
  backbone = _backbone(rows)
  monkeypatch.setattr(
    compact_model, "_views", lambda *_: (rows[training], labels[training])
  )
  before = _embedded_recall(backbone, rows[~training], labels[~training])
  first, last = compact_model.learn_classes(backbone, [], labels[training])
  assert last < 0.7 * first
  assert (
    _embedded_recall(backbone, rows[~training], labels[~training]) > before + 3
  )


def test_the_same_seed_gives_the_same_embedding(monkeypatch):
  generator = np.random.default_rng(1)
  rows, labels = generator.normal(size=[30, 8]), np.arange(30) % 3
  monkeypatch.setattr(compact_model, "_views", lambda *_: (rows, labels))
  options = compact_model.ClassOptions(steps=20, batch=8)
  kernels = []
  for _ in range(2):
    backbone = _backbone(rows)
    compact_model.learn_classes(backbone, [], labels, options)
    kernels.append(backbone.embedding_layer.get_weights()[0])
  np.testing.assert_array_equal(*kernels)


def test_whitening_ignores_what_differs_in_one_place():
  # Two values tell places apart; six, a hundred times as large, change with
  # the light. Whitening finds the two.
  random = np.random.default_rng(0)
  groups = np.repeat(np.arange(60), 2)
  mixing = np.linalg.qr(random.normal(size=(8, 8)))[0]
  place = random.normal(size=(60, 2))[groups]
  light = 100 * random.normal(size=(120, 6))
  rows = np.hstack([place, light]) @ mixing + 5
  plain, number = _recall(rows - rows.mean(0), groups)
  assert number == 120
  kernel, bias = compact_model.whitening(
    rows[::2], rows[1::2], rows, 2, shrinkage=1e-9
  )
  white = rows @ kernel + bias
  assert plain < 0.2 * number
  assert _recall(white, groups)[0] > 0.9 * number
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)


def test_recall_counts_nearest_photos_of_the_group():
  rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.0]])
  assert _recall(rows, np.array([0, 0, 1, 1, 2])) == (4, 4)
  assert _recall(rows, np.array([0, 1, 0, 1, 2])) == (0, 4)


@pytest.mark.slow
def test_words_and_embedding_tell_places_apart():
  wholes = [skimage_data.astronaut(), skimage_data.coffee()]
  wholes += [skimage_data.chelsea(), skimage_data.rocket()]
  images = [
    np.ascontiguousarray(whole[y : y + 120, x : x + 120])
    for whole in wholes
    for y in (0, 150)
    for x in (0, 200)
  ]
  shown = [
    view_pairs.Photo(str(i), image, i, i) for i, image in enumerate(images)
  ]
  backbone = backbones.make("compact", words=4, embedding_layer_dim=8)
  compact_model.whiten(backbone, shown, [], seed=0)
  words = backbone.pool.words.numpy()
  np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
  assert np.linalg.matrix_rank(words) == 4
  layer = backbone.embedding_layer
  # The first of the views that it was made from.
  rng = np.random.default_rng(0)
  views = [compact_model._view(rng, image, (0.8, 1.5)) for image in images]
  rows = np.concatenate(
    [compact_model.pooled(backbone, each) for each in (images, views)]
  )
  embedded = rows @ layer.kernel.numpy() + layer.bias.numpy()
  np.testing.assert_allclose(embedded[: len(images)].mean(0), 0, atol=1e-2)
  groups = np.tile(np.arange(len(images)), 2)
  before, number = _recall(rows, groups)
  assert before < 0.6 * number
  assert _recall(embedded, groups)[0] > 0.9 * number


def _units(*shape):
  x = np.random.default_rng(0).normal(size=shape)
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  return x.astype(np.float32)


def test_keypoint_loss_is_the_weighted_cross_entropy():
  logits = np.zeros([1, 1, 2, 64], np.float32)
  logits[0, 0, 0, 27] = 3.0  # (-1, -1)
  offsets = np.array([[[-1.0, -0.8], [2.0, 1.0]]], np.float32)
  weights = np.array([[1.0, 0.0]], np.float32)
  loss = float(compact_model.keypoint_loss(logits, offsets, weights))
  y, x = np.mgrid[-4:4, -4:4]
  target = np.exp(-0.5 * ((y + 1) ** 2 + (x + 0.8) ** 2) / 0.6**2)
  share = (target / target.sum())[3, 3]
  assert 0.3 < share < 0.5
  assert loss == pytest.approx(np.log(63 + np.exp(3)) - 3 * share, abs=1e-4)
  both = float(
    compact_model.keypoint_loss(logits, offsets, np.ones_like(weights))
  )
  assert both == pytest.approx((loss + np.log(64)) / 2, abs=1e-4)


def test_descriptor_loss_is_the_definition():
  first, second = _units(2, 3, 8), _units(2, 3, 8)[::-1].copy()
  far = 100.0 * np.arange(3, dtype=np.float32)
  points = np.tile(np.stack([far, far], -1), (2, 1, 1))
  loss, probability, _ = compact_model.descriptor_loss(
    first, second, points, points, np.ones([2, 3], np.float32)
  )
  logits = first.reshape(6, 8) @ second.reshape(6, 8).T
  logits = np.exp(logits.astype(np.float64) / compact_model.TEMPERATURE)
  true = np.diag(logits)
  expected = -0.5 * np.log(true**2 / logits.sum(0) / logits.sum(1))
  np.testing.assert_allclose(np.ravel(loss), expected, rtol=1e-4)
  np.testing.assert_allclose(
    np.ravel(probability), np.exp(-expected), rtol=1e-3
  )


def test_near_points_and_padding_are_no_negatives():
  same = np.tile(_units(1, 1, 8), (1, 3, 1))
  points = np.array([[[0, 0], [5, 5], [900, 900]]], np.float32)
  weights = np.array([[1, 1, 0]], np.float32)
  loss, _, nearest = compact_model.descriptor_loss(
    same, same, points, points, weights
  )
  np.testing.assert_allclose(np.array(loss)[0, :2], 0, atol=1e-5)
  assert np.array(nearest)[0, :2].tolist() == [1, 1]
  far = 100 * points
  loss, _, _ = compact_model.descriptor_loss(same, same, far, far, weights)
  np.testing.assert_allclose(np.array(loss)[0, :2], np.log(2), atol=1e-4)


def test_attention_loss_is_least_at_its_target():
  logits = np.linspace(-4, 4, 81)
  scores = np.log1p(np.exp(logits)).astype(np.float32)
  entropies = [
    float(
      compact_model.attention_loss(s[None, None], 0.3 * np.ones([1, 1]), 1.0)
    )
    for s in scores
  ]
  best = 1 / (1 + np.exp(-logits[np.argmin(entropies)]))
  assert best == pytest.approx(0.3, abs=0.03)


@pytest.fixture(scope="module")
def batch():
  image = cv2.resize(skimage_data.astronaut(), (320, 320))
  other = cv2.resize(skimage_data.coffee(), (320, 240))
  pool = [
    view_pairs.Photo("a", image, 0, 0),
    view_pairs.Photo("b", other, 1, 1),
  ]
  return view_pairs.Source(
    pool, [], view_pairs.Options(pairs=2, side=96, seed=1)
  ).batch()


def _learner(path):
  return compact_model.CompactTrainer(
    compact.CompactBackbone(),
    heads.AttentionModel(),
    path=path,
    warm_up=1,
    side=96,
  )


@pytest.mark.slow
def test_one_batch_is_learnt_and_training_continues(batch, tmp_path):
  learner = _learner(tmp_path / "checkpoint.npz")
  losses = [learner.learn(batch, 0.0)["local"] for _ in range(25)]
  assert losses[-1] < 0.6 * losses[0]
  learner.save()
  other = _learner(tmp_path / "checkpoint.npz")
  other.resume()
  assert other.step == 25
  pixels = ops.zeros([1, 32, 32, 3])
  np.testing.assert_array_equal(
    np.array(other.backbone.local_call(pixels, training=False)),
    np.array(learner.backbone.local_call(pixels, training=False)),
  )
  (tmp_path / "checkpoint.npz").write_bytes(b"no arrays")
  with pytest.raises(errors.InputError, match="a checkpoint of training"):
    other.resume()

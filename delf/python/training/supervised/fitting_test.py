"""Runs: what they write, how they go on, what ends them."""

import pytest

from delf.python.training.supervised import fitting, observers, settings
from tests import noise_batches

_BATCHES = noise_batches.NoiseBatches()


def _settings(folder, max_iters=4, delg=True, **options):
  return settings.Settings(
    str(folder),
    settings.Data(num_classes=3, batch_size=4, image_size=65),
    settings.Network(backbone="compact", delg=delg, embedding_layer_dim=16),
    settings.Learning(max_iters=max_iters, **options),
    settings.Reporting(report_every=2, save_every=2, validate_every=3),
  )


class _Watch(observers.Observer):
  """Remembers what it was told."""

  def __init__(self):
    self.told = []

  def wants(self, step):
    return step == 2

  def on_step(self, step, metrics, batch):
    self.told.append(("step", step, metrics, batch))

  def on_validation(self, step, metrics):
    self.told.append(("validation", step, metrics))

  def on_save(self, step, path):
    self.told.append(("save", step, path))

  def of(self, kind):
    return [entry[1:] for entry in self.told if entry[0] == kind]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was not stopped: folder, report, and what was told."""
  folder = tmp_path_factory.mktemp("whole")
  watch = _Watch()
  report = fitting.fit(_settings(folder), [watch], _BATCHES)
  return folder, report, watch


def test_a_run_tells_how_it_goes(whole):
  folder, report, watch = whole
  assert (report.step, report.signal) == (4, None)
  assert [step for step, *_ in watch.of("step")] == [1, 2, 3, 4]
  rates = [m["learning_rate"] for _, m, _ in watch.of("step")]
  assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
  ((step, metrics),) = watch.of("validation")
  assert step == 3
  assert set(metrics) == {"validation/desc", "validation/attn"}
  # 9 photos: the last batch is not a whole one.
  assert all((9 * value) % 1 < 1e-9 for value in metrics.values())
  assert [step for step, _ in watch.of("save")] == [2, 4]
  batches = [batch for *_, batch in watch.of("step")]
  assert [batch is not None for batch in batches] == [False, True, False, False]
  assert batches[1].images.shape == (4, 65, 65, 3)
  assert batches[1].attention.shape == (4, 9, 9, 1)
  assert sorted(batches[1].sparsity) == [f"sparsity/block{i}" for i in range(5)]
  assert (folder / "delf_weights.index").exists()

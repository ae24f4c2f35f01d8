"""Two devices that share a batch compute what one does with all of it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEVICES = ("CPU:0", "CPU:1")


def _run(normalization):
  """Returns metrics and variables of three steps, of one device and of two.

  With "batch" both are of two devices, the second one compiled with XLA.
  TensorFlow has two logical processors if it is told so before it starts.
  """
  command = [sys.executable, "-m", __name__, normalization]
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  result = subprocess.run(
    command, cwd=_ROOT, env=environment, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["frozen", "synchronized"])
def test_two_devices_are_as_one(normalization):
  one, two = _run(normalization)
  assert one.keys() == two.keys()
  assert one["steps"] == 3
  assert len(one.pop("averages")) == 1
  assert len(two.pop("averages")) == 2
  for name, value in one.items():
    assert two[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


@pytest.mark.slow
def test_averages_are_of_all_devices_and_xla_gives_the_same():
  plain, compiled = _run("batch")
  assert plain["steps"] == 3
  for found in (plain, compiled):
    first, second = found.pop("averages")
    assert first == second
    assert any(first)
  for name, value in plain.items():
    assert compiled[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def _measure(given, names, batches, xla=False):
  import keras
  import numpy as np
  import tensorflow as tf

  from delf.learning import delg_settings, delg_steps
  from delf.networks import backbones

  keras.utils.set_random_seed(1)
  execution = delg_settings.Execution(devices=names, xla=xla)
  given = dataclasses.replace(given, execution=execution)
  stepper = delg_steps.Stepper(given, delg_steps.strategy(execution))
  assert stepper.strategy.num_replicas_in_sync == len(names)
  dataset = tf.data.Dataset.from_tensor_slices(batches)
  found = {}
  for i, (images, labels) in enumerate(stepper.distribute(dataset)):
    metrics, outputs = stepper.train(images, labels, True)
    batch = outputs()
    found |= {f"{i} {name}": value for name, value in metrics.items()}
    found |= {f"{i} {name}": value for name, value in batch.sparsity.items()}
    found[f"{i} attention"] = batch.attention.ravel().tolist()
    found[f"{i} labels"] = batch.labels.tolist()
  # The last batch of a validation: here one photo, or none for a device.
  rest = tf.data.Dataset.from_tensor_slices(batches).unbatch().take(5).batch(4)
  for i, (images, labels) in enumerate(stepper.distribute(rest)):
    counts = stepper.validate(images, labels)
    found |= {f"right {i} {name}": count for name, count in counts.items()}
  variables = backbones.variables_by_path(stepper.model)
  for name, variable in (variables | stepper.optimizer.by_key()).items():
    values = np.ravel(variable.numpy()).astype(float)
    found[name] = values[:50].tolist()
    found[f"norm of {name}"] = float(np.linalg.norm(values))
  norm = stepper.model.backbone.norm
  found["averages"] = [
    local.numpy().tolist()
    for local in stepper.strategy.experimental_local_results(
      norm.moving_mean.value
    )
  ]
  return found | {"steps": stepper.step}


def _main():
  import numpy as np
  import tensorflow as tf

  from delf.learning import delg_settings
  from tests.stand_ins import tiny_training

  processor = tf.config.list_physical_devices("CPU")[0]
  tf.config.set_logical_device_configuration(
    processor, [tf.config.LogicalDeviceConfiguration()] * 2
  )
  given = delg_settings.Settings(
    "nowhere",
    delg_settings.Data(num_classes=3, batch_size=4, image_size=65),
    delg_settings.Network(
      backbone="tiny",
      delg=True,
      embedding_layer_dim=6,
      normalization=sys.argv[1],
    ),
    # Some steps are clipped.
    delg_settings.Learning(max_iters=5, clip_norm=30.0, warm_up=2),
  )
  dataset = tiny_training.NoiseBatches().training().take(3)
  batches = [np.stack(each) for each in zip(*dataset, strict=True)]
  with tiny_training.registered():
    if sys.argv[1] == "batch":
      first = _measure(given, _DEVICES, tuple(batches))
      second = _measure(given, _DEVICES, tuple(batches), xla=True)
    else:
      first = _measure(given, _DEVICES[:1], tuple(batches))
      second = _measure(given, _DEVICES, tuple(batches))
  print(json.dumps([first, second]))


if __name__ == "__main__":
  _main()

"""What `train.py` says besides what its run does."""

import pytest

from delf.cli import scripts
from delf.learning import delg, delg_settings, pairs_settings, watchers
from delf.python.training import train
from delf.python.training.global_features import train as global_train


@pytest.mark.parametrize(("last", "status"), [(0.1, 0), (1.9, 1)])
def test_the_self_test_says_whether_it_learns(
  last, status, monkeypatch, capsys
):
  verdict = watchers.Verdict(9, {"loss/desc/crossentropy": (2.0, last)})
  monkeypatch.setattr(watchers, "overfit", lambda *given: verdict)
  monkeypatch.setattr(delg, "Source", lambda *given: None)
  argv = ["train.py", "--overfit_one_batch"]
  with pytest.raises(SystemExit) as end:
    scripts.run(train.main, train.define_flags, argv)
  assert (end.value.code or 0) == status
  out, err = capsys.readouterr()
  line = err if status else out
  assert line.startswith("one batch, 9 steps: loss/desc/crossentropy 2 -> ")
  assert line.count("\n") == 1
  assert ("--initial_lr" in line) == bool(status)


def _settings(module, settings_of_flags, *argv):
  """Returns the settings that a script makes of its arguments."""
  found = []

  def main():
    found.append(settings_of_flags())

  with pytest.raises(SystemExit):
    scripts.run(main, module.define_flags, ["train.py", *argv])
  return found[0]


def test_debug_sets_what_is_not_given():
  def of(*argv):
    made = _settings(train, delg_settings.settings_of_flags, *argv)
    return (
      made.data.batch_size,
      made.learning.max_iters,
      made.reporting.save_every,
      made.reporting.report_every,
    )

  assert of() == (32, 500000, 1000, 100)
  assert of("--debug") == (4, 100, 1, 10)
  # Of a flag that is given its default counts, too.
  given = ["--batch_size=32", "--max_iters=7", "--save_every=5"]
  assert of("--debug", *given) == (32, 7, 5, 10)


def test_debug_of_global_training_reports_each_batch():
  def of(*argv):
    argv = ["--test_datasets=", *argv]
    read = pairs_settings.settings_of_flags
    return _settings(global_train, read, *argv).print_every

  assert [of(), of("--debug"), of("--debug", "--print_freq=3")] == [10, 1, 3]

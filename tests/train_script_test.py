"""What `train.py` says besides what its run does."""

import pytest

from delf.python import script_flags
from delf.python.training import train
from delf.python.training.supervised import data_source, one_batch


@pytest.mark.parametrize(("last", "status"), [(0.1, 0), (1.9, 1)])
def test_the_self_test_says_whether_it_learns(
  last, status, monkeypatch, capsys
):
  verdict = one_batch.Verdict(9, {"loss/desc/crossentropy": (2.0, last)})
  monkeypatch.setattr(one_batch, "overfit", lambda *given: verdict)
  monkeypatch.setattr(data_source, "Source", lambda *given: None)
  argv = ["train.py", "--overfit_one_batch"]
  with pytest.raises(SystemExit) as end:
    script_flags.run(train.main, train.define_flags, argv)
  assert (end.value.code or 0) == status
  out, err = capsys.readouterr()
  line = err if status else out
  assert line.startswith("one batch, 9 steps: loss/desc/crossentropy 2 -> ")
  assert line.count("\n") == 1
  assert ("--initial_lr" in line) == bool(status)

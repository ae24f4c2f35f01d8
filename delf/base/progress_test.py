import io

import pytest

from delf.base import progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves 25 seconds each time it is read."""
  seconds = iter(range(0, 10**6, 25))
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))


def test_a_line_each_minute_where_there_is_no_terminal(clock, capsys):
  shown = progress.track([7] * 10, "working")
  items = []
  for i, item in enumerate(shown):
    items.append(item)
    if i == 4:
      shown.set_postfix_str("1 failed")
  assert items == [7] * 10
  out, err = capsys.readouterr()
  assert not out
  # After 75, 150 and 225 seconds.
  lines = err.splitlines()
  assert [line.split()[2] for line in lines] == ["3/10", "6/10", "9/10"]
  assert all(line.startswith("working: ") for line in lines)
  assert "1 failed" in lines[1] and "1 failed" not in lines[0]
  assert "\r" not in err


def test_bytes_in_lines(clock, capsys):
  with progress.count_bytes("loading", total=4000, done=1000) as shown:
    for _ in range(3):
      shown.update(1000)
  assert capsys.readouterr().err.startswith("loading: 100% 4.00k/4.00k")


def test_short_work_leaves_no_line(capsys):
  assert list(progress.track(iter("abc"), "working", total=3)) == list("abc")
  assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch):
  terminal = _Terminal()
  monkeypatch.setattr(progress.sys, "stderr", terminal)
  assert list(progress.track([1, 2], "working")) == [1, 2]
  assert "2/2" in terminal.getvalue()


def test_a_budget_says_how_it_goes(capsys, monkeypatch):
  monkeypatch.setattr(progress, "_LINE_INTERVAL", 0)
  with progress.spend("training", 20.0) as bar:
    bar.set_postfix_str("step 3, found 0.5")
    bar.update(5.0)
  line = capsys.readouterr().err
  assert line.startswith("training:  25% [") and "step 3, found 0.5]" in line

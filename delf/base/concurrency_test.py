import itertools
import signal
import threading

import pytest

from delf.base import concurrency


def test_results_come_in_order_and_only_so_many_ahead():
  taken = []

  def items():
    for item in itertools.count():
      taken.append(item)
      yield item

  squares = concurrency.map_ahead(lambda x: x * x, items(), 3, 5)
  assert list(itertools.islice(squares, 20)) == [x * x for x in range(20)]
  assert len(taken) == 24
  squares.close()
  assert not list(concurrency.map_ahead(int, [], 2, 4))


def test_no_more_is_loaded_ahead_than_there_are_workers():
  started, gate = [], threading.Event()

  def load(item):
    started.append(item)
    gate.wait(5)
    return item

  futures = concurrency.futures_ahead(load, range(100), 2, 3)
  threading.Timer(0.1, gate.set).start()
  assert next(futures).result() == 0
  assert len(started) <= 3
  futures.close()
  assert len(started) < 10


def test_an_error_is_raised_at_its_result():
  results = concurrency.map_ahead(int, ["1", "none", "3"], 2, 3)
  assert next(results) == 1
  with pytest.raises(ValueError, match="none"):
    next(results)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_ends(number):
  class EndedError(Exception):
    pass

  def end(*_):
    raise EndedError

  before = signal.signal(number, end)
  try:
    with pytest.raises(EndedError), concurrency.stop_on_signals() as stop:
      assert stop.signal is None
      signal.raise_signal(number)
      assert stop.signal == number
      signal.raise_signal(number)
    assert signal.getsignal(number) is end
  finally:
    signal.signal(number, before)


def test_other_threads_leave_signals_alone():
  before = signal.getsignal(signal.SIGTERM)

  def run():
    with concurrency.stop_on_signals() as stop:
      during.append((stop.signal, signal.getsignal(signal.SIGTERM)))

  during = []
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert during == [(None, before)]

import numpy as np
import pytest

from delf.python import orders


@pytest.mark.parametrize("limit", [1, 5, 1 << 16, (1 << 16) + 1, 1 << 40])
def test_equal_numbers_stay_in_order(limit):
  keys = np.random.default_rng(0).integers(0, limit, 3000)
  keys[[5, 70]] = limit - 1
  order = orders.stable(keys)
  pairs = list(zip(keys[order].tolist(), order.tolist(), strict=True))
  assert pairs == sorted(zip(keys.tolist(), range(3000), strict=True))


def test_nothing_to_order():
  assert orders.stable(np.zeros([0], np.int64)).shape == (0,)

"""Rows in several blocks, so that to add or remove some copies few."""

import numpy as np

# Blocks are joined while they are small: a copy of more costs too much.
_SMALL_BYTES = 1 << 26
# What is left of a block is several blocks of no copy, unless they are many.
_MOST_VIEWS = 64


def joined(blocks, block):
  """Returns blocks with one more, which small ones before it are joined to.

  Only blocks that are no longer than what follows are joined to it, so that
  each row is copied few times though rows may come one by one.

  Args:
    blocks: list of arrays [N_i, D] of one dtype; stays as it is.
    block: [N, D] array.
  """
  blocks = list(blocks)
  while blocks and len(blocks[-1]) <= len(block):
    if blocks[-1].nbytes + block.nbytes > _SMALL_BYTES:
      break
    block = np.concatenate([blocks.pop(), block])
  return [*blocks, block]


def kept(block, keep):
  """Returns what is left of a block, as a list of blocks.

  Args:
    block: [N, D] array.
    keep: [N] bool.
  """
  edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))
  if len(edges) > 2 * _MOST_VIEWS:
    return [block[keep]]
  return [block[start:end] for start, end in edges.reshape(-1, 2)]

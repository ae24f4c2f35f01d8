"""The text file that metrics are kept in, as the original writes and reads it.

Four lines a protocol: its name, `  mAP=`, `  mP@k[ranks] [values]` and
`  mR@k[ranks] [values]`, values in percent.
"""

import re
import sys

import numpy as np

from delf.python import errors, files

_LIMIT = 2**24
_AT_RANKS = re.compile(r"  (m[PR])@k\[([\d\s]*)\]\s+\[([^\[\]]*)\]")


def SaveMetricsFile(
  mean_average_precision, mean_precisions, mean_recalls, pr_ranks, output_path
):
  """Writes metrics whole or not at all, in percent with two decimals.

  Long lists stay on one line. (The original's wrap, and its own reader rejects
  them then.)

  Args:
    mean_average_precision: dict by protocol of float in [0, 1].
    mean_precisions: dict by protocol of [R] float in [0, 1].
    mean_recalls: dict by protocol of [R] float in [0, 1].
    pr_ranks: [R] int.
    output_path: Path of the text file.

  Raises:
    InputError: If a protocol is missing in one of them.
    OSError: If the file cannot be written.
  """
  lines = []
  for protocol in sorted(mean_average_precision):
    for name, values in (("mP", mean_precisions), ("mR", mean_recalls)):
      if protocol not in values:
        raise errors.InputError(f"{name} of {protocol}", "none")
    lines += [
      f"{protocol}\n",
      f"  mAP={_percent(mean_average_precision[protocol])!s}\n",
      f"  mP@k{_text(pr_ranks)} {_text(_percent(mean_precisions[protocol]))}\n",
      f"  mR@k{_text(pr_ranks)} {_text(_percent(mean_recalls[protocol]))}\n",
    ]
  files.write_bytes(output_path, "".join(lines).encode())


def ReadMetricsFile(metrics_path):
  """Reads a metrics file, the original's too, also where its lists wrap.

  Args:
    metrics_path: Path of the text file.

  Returns:
    (mean_average_precision, pr_ranks, mean_precisions, mean_recalls): dict by
    protocol of float; [R] int64; dicts by protocol of [R] float64. All but the
    ranks in [0, 1].

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no metrics file, has a protocol twice, or other ranks
      for one protocol than for another.
  """
  lines = _lines(metrics_path)
  if not lines or len(lines) % 4:
    raise errors.InputError(
      "four lines for each protocol", f"{len(lines)} lines", metrics_path
    )
  mean_average_precision, ranks, by_name = {}, None, {"mP": {}, "mR": {}}
  for start in range(0, len(lines), 4):
    protocol = lines[start]
    if protocol in mean_average_precision:
      raise errors.InputError("each protocol once", protocol, metrics_path)
    mean_average_precision[protocol] = _mean(lines[start + 1], metrics_path)
    for name, line in zip(by_name, lines[start + 2 : start + 4], strict=True):
      found, values = _at_ranks(line, name, metrics_path)
      if ranks is not None and not np.array_equal(found, ranks):
        raise errors.InputError(
          f"the same ranks everywhere, {_text(ranks)}",
          _text(found),
          metrics_path,
        )
      ranks = found
      by_name[name][protocol] = values
  return mean_average_precision, ranks, by_name["mP"], by_name["mR"]


def _percent(values):
  return np.around(np.asarray(values, np.float64) * 100, decimals=2)


def _text(array):
  """Returns an array as NumPy prints it unless told otherwise; on one line."""
  return np.array2string(
    np.asarray(array),
    max_line_width=sys.maxsize,
    threshold=sys.maxsize,
    precision=8,
    floatmode="maxprec",
    suppress_small=False,
    sign="-",
    formatter={},
    legacy=False,
  )


def _lines(path):
  """Returns the lines of a metrics file; what had wrapped is joined."""
  try:
    text = files.read_bytes(path, _LIMIT).decode()
  except UnicodeDecodeError:
    raise errors.InputError("a metrics file", "binary data", path) from None
  lines, depth = [], 0
  for line in text.splitlines():
    if depth > 0:
      lines[-1].append(line)
    else:
      lines.append([line.rstrip()])
      depth = 0
    depth += line.count("[") - line.count("]")
  return ["".join(parts) for parts in lines]


def _mean(line, path):
  prefix, _, value = line.partition("=")
  if prefix != "  mAP":
    _no("  mAP=", line, path)
  return float(_floats([value], line, path)[0])


def _at_ranks(line, name, path):
  """Returns ([R] int64 ranks, [R] float64 values) of a line."""
  match = _AT_RANKS.fullmatch(line)
  if not match or match[1] != name:
    _no(f"  {name}@k[ranks] [values]", line, path)
  try:
    ranks = np.array(match[2].split(), np.int64)
  except (ValueError, OverflowError):
    _no("ranks", line, path)
  values = _floats(match[3].split(), line, path)
  if len(ranks) != len(values):
    raise errors.InputError(
      f"{len(ranks)} values in '{line.strip()}'", f"{len(values)}", path
    )
  return ranks, values


def _floats(words, line, path):
  try:
    return np.array(words, np.float64) / 100
  except ValueError:
    return _no("numbers", line, path)


def _no(expected, line, path):
  raise errors.InputError(f"'{expected}'", f"'{line[:80]}'", path)

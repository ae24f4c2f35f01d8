"""Solutions and predictions of the Google Landmarks contests."""

import contextlib
import math
from collections.abc import Iterable

from delf.base import errors, files

RECOGNITION_TASK_ID = "recognition"
RETRIEVAL_TASK_ID = "retrieval"

_USAGES = ("Public", "Private", "Ignored")


def ReadSolution(
  file_path: files.Path, task: str
) -> tuple[dict[str, list], dict[str, list], list[str]]:
  """Read the ground truth of a task, "recognition" or "retrieval".

  The file is CSV: a header, then `id,landmarks,Usage` or `id,images,Usage`;
  landmarks and images are separated by spaces.

  Returns:
    Public and private solution: by test image, lists of landmarks (may be
    empty) or of index images (an empty text in place of none, as in the
    original); and the ids of ignored test images.
  """
  _check_task(task)
  solutions: dict[str, dict[str, list]] = {"Public": {}, "Private": {}}
  ignored_ids, seen = [], set()
  for line, row in files.read_csv(file_path):
    if len(row) != 3:
      raise _bad(file_path, line, f"{len(row)} columns, not 3")
    test_id, expected, usage = row
    if test_id in seen:
      raise _bad(file_path, line, f"the test image {test_id} occurs twice")
    seen.add(test_id)
    if usage not in _USAGES:
      text = f"the usage is {usage}, not one of {', '.join(_USAGES)}"
      raise _bad(file_path, line, text)
    if usage == "Ignored":
      ignored_ids.append(test_id)
    elif task == RECOGNITION_TASK_ID:
      solutions[usage][test_id] = _landmarks(expected, file_path, line)
    else:
      solutions[usage][test_id] = expected.split() or [""]
  return solutions["Public"], solutions["Private"], ignored_ids


def ReadPredictions(
  file_path: files.Path,
  public_ids: Iterable[str],
  private_ids: Iterable[str],
  ignored_ids: Iterable[str],
  task: str,
) -> tuple[dict, dict]:
  """Read the predictions of a task; test images may lack one.

  The file is CSV: a header, then `id,landmark score` or `id,images`; images are
  separated by spaces, best first. Predictions of `ignored_ids` are dropped.

  Returns:
    Public and private predictions: by test image, `{"class": int, "score":
    float}` or lists of index images.
  """
  _check_task(task)
  parts: list[tuple[set[str], dict[str, dict | list]]]
  parts = [(set(public_ids), {}), (set(private_ids), {})]
  ignored_ids = set(ignored_ids)
  for line, row in files.read_csv(file_path):
    if len(row) != 2:
      raise _bad(file_path, line, f"{len(row)} columns, not 2 columns")
    test_id, fields = row[0], row[1].split()
    if not fields or test_id in ignored_ids:
      continue
    predictions = next((p for ids, p in parts if test_id in ids), None)
    if predictions is None:
      raise _bad(file_path, line, f"the solution has no test image {test_id}")
    if test_id in predictions:
      raise _bad(file_path, line, f"the test image {test_id} occurs twice")
    is_list = task == RETRIEVAL_TASK_ID
    prediction = fields if is_list else _prediction(fields, file_path, line)
    predictions[test_id] = prediction
  return parts[0][1], parts[1][1]


def _check_task(task):
  if task not in (RECOGNITION_TASK_ID, RETRIEVAL_TASK_ID):
    known = f"{RECOGNITION_TASK_ID} or {RETRIEVAL_TASK_ID}"
    raise errors.InputError(f"the task must be {known}, not {task}")


def _landmarks(text, path, line):
  try:
    return [int(number) for number in text.split(" ")] if text else []
  except ValueError:
    problem = f"'{text[:80]}' is not a list of landmarks, one space apart"
    raise _bad(path, line, problem) from None


def _prediction(fields, path, line):
  with contextlib.suppress(ValueError):
    landmark, score = int(fields[0]), float(fields[-1])
    if len(fields) == 2 and math.isfinite(score):
      return {"class": landmark, "score": score}
  problem = f"'{' '.join(fields)[:80]}' is not a landmark and a finite score"
  raise _bad(path, line, problem)


def _bad(path, line, problem):
  return errors.InputError(problem, path=f"{path}, line {line}")

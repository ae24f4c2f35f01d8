"""Reading solutions and predictions of the Google Landmarks contests."""

import math
from collections.abc import Iterable

from delf.base import errors, files

RECOGNITION_TASK_ID = "recognition"
RETRIEVAL_TASK_ID = "retrieval"

_USAGES = ("Public", "Private", "Ignored")


def ReadSolution(
  file_path: files.Path, task: str
) -> tuple[dict[str, list], dict[str, list], list[str]]:
  """Read the ground truth of a task, one of the two above.

  The file is CSV: a header, then `id,landmarks,Usage` or `id,images,Usage`,
  several separated by spaces.

  Returns:
    Public solution and private solution, by test image lists of landmarks
    (empty where it shows none) or of index images (as in the original, one
    empty text where there are none); test images that do not count.
  """
  _check_task(task)
  solutions, ignored_ids = {"Public": {}, "Private": {}}, []
  seen = set()
  for line, row in files.read_csv(file_path):
    if len(row) != 3:
      raise _bad(file_path, line, "3 columns", f"{len(row)}")
    test_id, expected, usage = row
    if test_id in seen:
      raise _bad(file_path, line, "each test image once", f"{test_id} again")
    seen.add(test_id)
    if usage not in _USAGES:
      raise _bad(file_path, line, f"one of {', '.join(_USAGES)}", usage)
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
  """Read predictions of a task; test images without one are left out.

  The file is CSV: a header, then `id,landmark score` or `id,images`, these
  separated by spaces, best first. Predictions for `ignored_ids` are dropped.

  Returns:
    Public and private predictions, by test image `{"class": int, "score":
    float}` or lists of index images.
  """
  _check_task(task)
  parts = (set(public_ids), {}), (set(private_ids), {})
  ignored_ids = set(ignored_ids)
  for line, row in files.read_csv(file_path):
    if len(row) != 2:
      raise _bad(file_path, line, "2 columns", f"{len(row)}")
    test_id, predicted = row[0], row[1].split()
    if not predicted or test_id in ignored_ids:
      continue
    predictions = next((p for ids, p in parts if test_id in ids), None)
    if predictions is None:
      raise _bad(file_path, line, "a test image of the solution", test_id)
    if test_id in predictions:
      raise _bad(file_path, line, "each test image once", f"{test_id} again")
    if task == RECOGNITION_TASK_ID:
      predicted = _landmark_and_score(predicted, file_path, line)
    predictions[test_id] = predicted
  return parts[0][1], parts[1][1]


def _check_task(task):
  if task not in (RECOGNITION_TASK_ID, RETRIEVAL_TASK_ID):
    raise errors.InputError(
      f"the task {RECOGNITION_TASK_ID} or {RETRIEVAL_TASK_ID}", task
    )


def _landmarks(text, path, line):
  try:
    return [int(number) for number in text.split(" ")] if text else []
  except ValueError:
    expected = "numbers of landmarks, one space apart"
    raise _bad(path, line, expected, f"'{text[:80]}'") from None


def _landmark_and_score(fields, path, line):
  expected = "a landmark and its score"
  if len(fields) != 2:
    raise _bad(path, line, expected, f"{len(fields)} words")
  try:
    prediction = {"class": int(fields[0]), "score": float(fields[1])}
  except ValueError:
    raise _bad(path, line, expected, f"'{' '.join(fields)[:80]}'") from None
  if not math.isfinite(prediction["score"]):
    raise _bad(path, line, "a finite score", fields[1])
  return prediction


def _bad(path, line, expected, received):
  return errors.InputError(expected, received, f"{path}, line {line}")

import numpy as np
import pytest

from delf.base import errors
from delf.cli import scripts
from delf.evaluation import submission
from delf.python.datasets.google_landmarks_dataset import (
  compute_recognition_metrics,
  compute_retrieval_metrics,
  dataset_file_io,
  metrics,
)

_INDEX = [f"a/b/{i:016x}.jpg" for i in range(6)]
_QUERIES = ["x/q0.jpg", "q1", "q2.png"]
_IDS = np.array([[3, 0, 1, 2], [5, 4, -1, -1], [-1, -1, -1, -1]], np.int32)


def _id(i):
  return f"{i:016x}"


def _write(path, *lines):
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def _run(script, predictions, solution):
  argv = ["script", f"--predictions_path={predictions}",
          f"--solution_path={solution}"]  # fmt: skip
  with pytest.raises(SystemExit) as end:
    scripts.run(script.main, script.define_flags, argv)
  return end.value.code


def test_retrieval_is_measured_as_it_was_found(tmp_path, capsys):
  path = tmp_path / "out" / "retrieval.csv"
  submission.write_retrieval(path, _QUERIES, _INDEX, _IDS)
  solution = _write(
    tmp_path / "solution.csv",
    "id,images,Usage",
    f"q0,{_id(0)} {_id(3)},Public",
    f"q1,{_id(4)},Private",
    f"q2,{_id(1)},Private",
  )
  public, private, ignored = dataset_file_io.ReadSolution(solution, "retrieval")
  found = dataset_file_io.ReadPredictions(
    path, public, private, ignored, "retrieval"
  )
  assert found[0]["q0"] == [_id(3), _id(0), _id(1), _id(2)]
  assert metrics.MeanAveragePrecision(found[0], public) == 1.0
  # The second of two for q1, nothing for q2.
  assert metrics.MeanAveragePrecision(found[1], private) == 0.25
  assert not _run(compute_retrieval_metrics, path, solution)
  said = capsys.readouterr().out
  assert "Mean average precision: 100.00" in said
  assert "Mean average precision: 25.00" in said
  assert "mean 51.50, median 51.5" in said


def test_no_more_is_written_than_counts(tmp_path):
  path = tmp_path / "retrieval.csv"
  index = [str(i) for i in range(150)]
  submission.write_retrieval(path, ["q"], index, np.arange(150)[None])
  assert len(path.read_text().splitlines()[1].split(",")[1].split()) == 100


def test_recognition_is_measured_as_it_was_found(tmp_path, capsys):
  landmarks = [7, 7, 9, 9, 5, 5]
  scores = np.array([[0.8, 0.7, 0.6, 0.1], [0.5, 0.25, 0, 0], [0] * 4])
  predicted, sums = submission.vote(_IDS, scores, landmarks)
  np.testing.assert_array_equal(predicted, [7, 5, -1])
  np.testing.assert_allclose(sums, [1.3, 0.75, 0])
  path = tmp_path / "recognition.csv"
  submission.write_recognition(path, _QUERIES, predicted, sums)
  assert path.read_text() == "id,landmarks\nq0,7 1.3\nq1,5 0.75\nq2,\n"
  solution = _write(
    tmp_path / "solution.csv",
    "id,landmarks,Usage",
    "q0,7 8,Public",
    "q1,4,Public",
    "q2,,Ignored",
  )
  assert not _run(compute_recognition_metrics, path, solution)
  said = capsys.readouterr().out
  assert "Public: 2 test images, 2 predictions" in said
  assert "Global average precision: 50.00" in said
  assert "Top-1 accuracy: 50.00" in said
  assert "Private: 0 test images, 0 predictions" in said
  assert "Ignored: 1 test images" in said


def test_votes_are_those_of_a_plain_count():
  generator = np.random.default_rng(3)
  ids = np.array([generator.permutation(40)[:12] for _ in range(30)])
  ids[4, 6:] = -1
  scores = np.sort(generator.normal(0.5, 0.5, ids.shape))[:, ::-1]
  landmarks = generator.integers(100, 106, 40)
  predicted, sums = submission.vote(ids, scores, landmarks, 8)
  for row in range(len(ids)):
    votes = {}
    for i, score in zip(ids[row, :8], scores[row, :8], strict=True):
      if i >= 0 and score > 0:
        label = landmarks[i]
        votes[label] = votes.get(label, 0) + score
    best = min(votes, key=lambda label: (-votes[label], label))
    assert predicted[row] == best
    assert sums[row] == pytest.approx(votes[best])


def test_equal_votes_go_to_the_lower_landmark():
  predicted, _ = submission.vote([[0, 1]], [[0.5, 0.5]], [9, 4])
  assert predicted.tolist() == [4]
  predicted, sums = submission.vote(np.zeros([2, 0], int), np.zeros([2, 0]), [])
  assert (predicted.tolist(), sums.tolist()) == ([-1, -1], [0, 0])


@pytest.mark.parametrize(
  "lines",
  [
    ("id,url,landmark_id", "a,http://x,3", "b,,4"),
    ("id,landmark_id", "a,3", "b,4"),
    ("landmark_id,images", "3,a", "4,b"),
  ],
)
def test_landmarks_are_read_from_each_table(lines, tmp_path):
  path = _write(tmp_path / "train.csv", *lines)
  assert submission.read_landmarks(path) == {"a": 3, "b": 4}


@pytest.mark.parametrize(
  ("lines", "words"),
  [
    (("id,url", "a,b"), "landmark_id"),
    (("id,landmark_id", "a,x"), "line 2"),
    (("id,landmark_id", "a,²"), "line 2"),
    (("id,landmark_id", "a," + "9" * 5000), "line 2"),
    (("id,landmark_id", "a,1", "a,2"), "line 3"),
    ((), "landmark_id"),
  ],
)
def test_other_tables_are_refused(lines, words, tmp_path):
  path = _write(tmp_path / "train.csv", *lines)
  with pytest.raises(errors.InputError, match=words):
    submission.read_landmarks(path)


def test_what_cannot_be_submitted_is_refused(tmp_path):
  path = tmp_path / "out.csv"
  with pytest.raises(errors.InputError, match="q0 occurs twice"):
    submission.write_retrieval(path, ["q0", "a/q0.jpg"], _INDEX, _IDS[:2])
  with pytest.raises(errors.InputError, match="3 results of 2 queries"):
    submission.write_retrieval(path, ["a", "b"], _INDEX, _IDS)
  for name in ("my photo.jpg", "a,b.jpg", 'a"b', ""):
    with pytest.raises(errors.InputError, match="spaces, commas or quotes"):
      submission.write_retrieval(path, ["q"], ["x", name], [[0]])
    with pytest.raises(errors.InputError, match="spaces, commas or quotes"):
      submission.write_recognition(path, [name], [1], [1.0])
  with pytest.raises(errors.InputError, match="x occurs twice"):
    submission.write_retrieval(path, ["q"], ["a/x.jpg", "b/x.jpg"], [[0]])
  with pytest.raises(errors.InputError, match="up to 6"):
    submission.write_retrieval(path, ["q"], _INDEX, [[6]])
  with pytest.raises(errors.InputError, match="shape"):
    submission.write_retrieval(path, ["q"], _INDEX, [0])
  with pytest.raises(errors.InputError, match="2 scores of 1 labels"):
    submission.write_recognition(path, ["a"], [1], [1.0, 2.0])
  with pytest.raises(errors.InputError, match="finite"):
    submission.write_recognition(path, ["a"], [1], [np.nan])
  assert not path.exists()


def test_scripts_say_what_is_wrong_in_one_line(tmp_path, capsys):
  solution = _write(tmp_path / "s.csv", "id,images,Usage", "a,b,Public")
  predictions = _write(tmp_path / "p.csv", "id,images", "c,b")
  assert _run(compute_retrieval_metrics, predictions, solution) == 1
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert f"{predictions}, line 2" in said

import pytest

from delf.base import errors, manifest


def test_a_record_is_read_as_written(tmp_path):
  path = tmp_path / "record.json"
  assert manifest.read(path) is None
  manifest.write(path, {"a": [1, None]})
  assert manifest.read(path) == {"a": [1, None]}
  for text in ("", "[]", "5", "[" * 100_000):
    path.write_text(text)
    with pytest.raises(errors.InputError, match="not a record of the settings"):
      manifest.read(path)


def test_what_differs_is_named():
  existing = {"most": 3, "version": 1, "photos": {"a": 5, "b": 2}, "old": "x"}
  wanted = {"most": None, "version": 2, "photos": {"a": 5, "b": 1}}
  assert manifest.difference(existing, existing) == ""
  assert manifest.difference(existing, wanted, ["version"]) == (
    "with most 3, not None; with photos b 2, not 1; with old x, not None"
  )


def test_a_journal_continues_after_a_line_that_was_cut(tmp_path):
  journal = manifest.Journal(tmp_path / "deep" / "journal.jsonl")
  assert journal.read() == []
  journal.add({"n": 1}, {"n": 2})
  journal.close()
  journal.path.write_bytes(journal.path.read_bytes()[:-4])
  journal.add({"n": 3})
  journal.close()
  assert journal.read(lambda entry: entry["n"]) == [1, 3]
  assert journal.read(lambda entry: entry["other"]) == []

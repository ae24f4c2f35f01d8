import json

from delf.python.cli import json_output


def test_what_json_does_not_have_is_null(capsys):
  document = {"a": [1.5, float("nan"), (float("inf"), "NaN")], "b": True}
  json_output.print_json(document)
  text = capsys.readouterr().out
  assert json.loads(text) == {"a": [1.5, None, [None, "NaN"]], "b": True}
  assert "Infinity" not in text

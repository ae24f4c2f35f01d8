import PIL.Image

from delf.python.datasets.revisited_op import dataset
from delf.python.pipelines import sample_dataset


def test_ground_truth_is_of_the_photos_that_are_there(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a download")

  monkeypatch.setattr("socket.socket.connect", refuse)
  images, path = sample_dataset.write(tmp_path / "new")
  queries, index, truth = dataset.ReadDatasetFile(str(path))
  assert queries == ["motorcycle_left", "coffee"]
  stems = {image.stem for image in images.iterdir()}
  assert stems == {*queries, *index}
  assert len(index) == 11
  for query, labels in zip(queries, truth, strict=True):
    first = query.split("_")[0]
    meant = [index[int(i)] for key in ("easy", "hard") for i in labels[key]]
    assert sorted(meant) == sorted(n for n in index if n.startswith(first))
    with PIL.Image.open(images / f"{query}.jpg") as image:
      left, upper, right, lower = labels["bbx"]
      assert 0 <= left < right <= image.width
      assert 0 <= upper < lower <= image.height

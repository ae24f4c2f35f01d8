"""An index of photos that is searched from Python: `delf.Index`."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from delf.api import model as models
from delf.api.work import Path, Say, Sources, listed, log_error
from delf.base import errors, progress
from delf.base.progress import Progress
from delf.extraction import engine
from delf.formats import features
from delf.inference import photo as photo_forms
from delf.search import building, collection, searching

# A photo to search for, or its features, as `Model.extract` returns them.
Query = photo_forms.Photo | features.ImageFeatures

_shown = progress.shown  # `progress` is an argument below.


class Index:
  """A folder of photos' features that can be searched; `delf index` makes one.

  `Index.build` makes one, `Index.open` opens one. It may be searched from
  several threads: the model is loaded once, at the first photo that is searched
  for. Changes that other programs make to the folder are seen by the next
  search. As a context manager it is closed at the end.

  Attributes:
    path: Its folder.
    report: IndexReport of the last `build` or `add`; None before.
  """

  def __init__(self, path: Path, *, device: str | None = None):
    self.path = os.fspath(path)
    self.report: building.IndexReport | None = None
    self._device = device
    self._lock = threading.RLock()
    self._model: models.Model | None = None
    self._searchers: dict[Any, searching.Searcher] = {}
    self._stamp: Any = None
    self._collection: collection.Collection | None
    self._collection = collection.open_folder(path)

  @classmethod
  def open(cls, path: Path, *, device: str | None = None) -> "Index":
    """Open the index in a folder.

    Args:
      path: Folder that `Index.build` or `delf index` has made.
      device: "cpu", "gpu" or "gpu:N", for the model; None for the best.

    Raises:
      FileNotFoundError: If there is no such folder.
      InputError: If it is not an index.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> _ = delf.Index.build("sample_photos", "sample.index", progress=False)
      >>> with delf.Index.open("sample.index") as index:
      ...   hits = index.search(photos[0], top=2)
      >>> [hit.name for hit in hits]
      ['motorcycle_left', 'motorcycle_right']
    """
    return cls(path, device=device)

  @classmethod
  def build(
    cls,
    sources: Sources,
    out: Path,
    *,
    model: str | None = None,
    config: Path | None = None,
    codebook: Path | None = None,
    aggregation: Path | None = None,
    whitening: Path | None = None,
    photos: Path | None = None,
    regions: bool = False,
    detector: str = "delf-boxes",
    detector_threshold: float = 0.1,
    max_regions: int | None = 5,
    max_size: int | None = None,
    workers: int = 1,
    rotate: bool = False,
    device: str | None = None,
    progress: Progress = True,
    say: Say = log_error,
  ) -> "Index":
    """Make an index of photos, or add to one that was made with the same model.

    A run that was interrupted resumes when it is repeated. A photo that cannot
    be used is reported, and the others are indexed: `report.failed` of the
    index lists them.

    Args:
      sources: Folder, pattern, list (.txt) or photo, or several; or one folder
        of feature files (`delf extract`).
      out: Folder of the index.
      model: Name or path, as `delf.load` takes it; None for that of `config`,
        of the existing index, or the embedded one.
      config: `.pbtxt` file with a DelfConfig.
      codebook: Prefix of a codebook (`delf fit codebook`), to index local
        features as visual words too.
      aggregation: `.pbtxt` file with an AggregationConfig; None for ASMK*.
      whitening: Whitening of global descriptors (`delf fit whitening`).
      photos: With feature files: folder of their photos, for pictures.
      regions: Whether to index the boxes that a detector finds in each photo,
        beside the whole of it.
      detector: Name of a detector, or folder of a SavedModel.
      detector_threshold: Least score of a box.
      max_regions: Most boxes of a photo, the best; None for all.
      max_size: Pixels that the longer side of photos is scaled down to.
      workers: Threads that decode photos.
      rotate: Whether to apply the EXIF orientation of photos.
      device: As `open` takes it.
      progress: Whether to show progress, or a function that is called with a
        label, the steps done, and their number.
      say: Called with a line for each photo that failed.

    Raises:
      InputError: If there are no photos, or the index has other settings.
      KeyboardInterrupt: If the user interrupted it; finished photos stay.

    Example:
      >>> import delf
      >>> _ = delf.sample_photos("sample_photos")
      >>> index = delf.Index.build(
      ...   "sample_photos", "sample.index", progress=False
      ... )
      >>> len(index)
      3
    """
    settings = None
    if regions:
      settings = collection.RegionSettings(
        detector, detector_threshold, max_regions
      )
    options = building.BuildOptions(
      model=model,
      config=config,
      codebook=codebook,
      aggregation=aggregation,
      whitening=whitening,
      regions=settings,
      photos=photos,
      max_size=max_size,
      workers=workers,
      device=device,
      apply_rotation=rotate,
      one_core_each=True,
    )
    with _shown(progress):
      report = building.build(listed(sources), out, options, say)
    index = cls(out, device=device)
    index.report = report
    return index

  def add(
    self,
    sources: Sources,
    *,
    workers: int = 1,
    progress: Progress = True,
    say: Say = log_error,
  ) -> building.IndexReport:
    """Add photos with the settings of the index; arguments are as of `build`.

    Photos that are in it already, and have not changed, are skipped.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> index = delf.Index.build(photos[:2], "two.index", progress=False)
      >>> report = index.add(photos[2], progress=False)
      >>> report.added, len(index)
      (('coffee',), 3)
    """
    opened = self._require_open()
    with self._lock, _shown(progress):
      options = building.BuildOptions(
        workers=workers,
        device=self._device,
        apply_rotation=opened.settings.apply_rotation,
        one_core_each=True,
        extractor=self._model and self._model.extractor,
      )
      self.report = building.build(listed(sources), self.path, options, say)
      return self.report

  def remove(self, names: str | Iterable[str]) -> int:
    """Take images out, not their files; return how many are left.

    InputError if a name is not in the index.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> index = delf.Index.build(photos, "left.index", progress=False)
      >>> index.remove("coffee")
      2
    """
    self._require_open()
    with self._lock:
      names = [names] if isinstance(names, str) else list(names)
      return building.remove(self.path, names)

  def merge(self, other: "Index | str | os.PathLike") -> int:
    """Take in all images of another index; return how many there are.

    InputError if it was made with other settings, or some image is in both.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> one = delf.Index.build(photos[:2], "one.index", progress=False)
      >>> other = delf.Index.build(photos[2], "other.index", progress=False)
      >>> one.merge(other)
      3
    """
    self._require_open()
    with self._lock:
      path = other.path if isinstance(other, Index) else other
      return building.merge(self.path, path)

  def search(
    self,
    query: Query,
    *,
    top: int = 20,
    method: str | None = None,
    verify: bool = False,
    verify_top: int = 100,
    expand: int = 0,
    refine: str | None = None,
    regions: bool = True,
    box: searching.Box | None = None,
    workers: int | None = None,
  ) -> list[searching.Hit]:
    """Find the images that are most like a photo.

    Nothing is written; `search_files` keeps features and verified pairs.

    Args:
      query: Path, bytes or open file of an image, Pillow image, pixels [H, W,
        3] uint8 (RGB), or features that `Model.extract` returned, of the model
        of the index.
      top: Most results.
      method: "global" (descriptors), "words" (visual words) or "fusion" of
        both; None for global, or words where there is no global descriptor.
      verify: Whether the first images are matched with the query point by
        point, and sorted by their inliers.
      verify_top: How many are.
      expand: Images of alpha query expansion; 0 for none.
      refine: Re-ranking by global descriptors: "alpha-qe", "average-qe",
        "diffusion" or "superglobal".
      regions: Whether regions count, in an index that has them.
      box: (x1, y1, x2, y2) in pixels, the part of the photo to search for.
      workers: Processes that match; None for one per core where it is worth it.

    Returns:
      A list of Hit, best first.

    Raises:
      InputError: If a photo cannot be used, or the index lacks features that
        the method needs.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> index = delf.Index.build(
      ...   "sample_photos", "sample.index", progress=False
      ... )
      >>> for hit in index.search(photos[0], top=2, verify=True):
      ...   print(hit.name, hit.is_match)
      motorcycle_left True
      motorcycle_right True
    """
    options = searching.SearchOptions(
      method, verify, verify_top, expand, refine, regions, workers, record=False
    )
    searcher = self._searcher(options)
    with _shown(False):
      result = searcher.search([self._query(query, box)], top)
    if result.failed:
      raise errors.InputError(str(result.failed[0]))
    ((_, hits),) = result.hits()
    return hits

  def search_files(
    self,
    queries: Sources,
    *,
    top: int = 20,
    method: str | None = None,
    verify: bool = False,
    verify_top: int = 100,
    expand: int = 0,
    refine: str | None = None,
    regions: bool = True,
    box: searching.Box | None = None,
    workers: int | None = None,
    html: Path | None = None,
    progress: Progress = True,
    say: Say = log_error,
  ) -> searching.SearchResult:
    """Search for many photos, as `delf search` does.

    The features of the photos, and the pairs that are verified, are kept with
    the index, so that a search that was interrupted resumes when it is
    repeated. A photo that cannot be used is reported, and listed in `failed` of
    the result.

    Args:
      queries: Folder, pattern, list (.txt) or photo, or several; or one folder
        of feature files.
      html: Path of a page with the results.
      progress: Whether to show progress, or a function that is called with a
        label, the steps done, and their number.
      say: Called with a line for each photo that failed.

    Other arguments are as of `search`.

    Example:
      >>> import delf
      >>> _ = delf.sample_photos("sample_photos")
      >>> index = delf.Index.build(
      ...   "sample_photos", "sample.index", progress=False
      ... )
      >>> result = index.search_files("sample_photos", progress=False)
      >>> for query, hits in result.hits():
      ...   print(query.name, hits[0].name)
      coffee coffee
      motorcycle_left motorcycle_left
      motorcycle_right motorcycle_right
    """
    if html:
      from delf.pictures import results_page

      results_page.check_path(html)
    options = searching.SearchOptions(
      method, verify, verify_top, expand, refine, regions, workers
    )
    searcher = self._searcher(options)
    with _shown(progress):
      chosen, failed = self._queries(listed(queries), box, say)
      result = searcher.search(chosen, top)
      for failure in result.failed:
        say(str(failure))
      result = dataclasses.replace(result, failed=(*failed, *result.failed))
      if html:
        page = searching.write_page(html, searcher.collection, result)
        result = dataclasses.replace(result, problems=page.problems)
    return result

  @property
  def names(self) -> list[str]:
    """Names of the images, in the order of the index."""
    return list(self._any_searcher().names)

  @property
  def photos(self) -> dict[str, str]:
    """Paths of photos by name, where they are known."""
    return dict(self._any_searcher().photos)

  @property
  def model(self) -> models.Model:
    """The model that the index was made with, loaded."""
    opened = self._require_open()
    with self._lock:
      if self._model is None:
        config = searching.query_config(opened)
        self._model = models.Model(
          config, rotate=opened.settings.apply_rotation, device=self._device
        )
      return self._model

  def close(self) -> None:
    """Release the model and the files of the index."""
    with self._lock:
      self._collection, self._model, self._stamp = None, None, None
      self._searchers.clear()

  def __enter__(self) -> "Index":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def __len__(self) -> int:
    return len(self._any_searcher().names)

  def __contains__(self, name: object) -> bool:
    return name in self._any_searcher().names

  def __iter__(self) -> Iterator[str]:
    return iter(self.names)

  def __repr__(self) -> str:
    if self._collection is None:
      return f"<Index {self.path}: closed>"
    return f"<Index {self.path}: {len(self)} images>"

  def __reduce__(self) -> tuple[Callable, tuple[str, str | None]]:
    return _reopen, (self.path, self._device)

  def _require_open(self):
    if self._collection is None:
      raise errors.InputError("this index is closed", path=self.path)
    return self._collection

  def _searcher(self, options):
    with self._lock:
      opened = self._require_open()
      stamp = collection.stamp(opened)
      if stamp != self._stamp:
        self._searchers.clear()
        self._collection = opened = collection.open_folder(self.path)
        self._stamp = stamp
      if options not in self._searchers:
        self._searchers[options] = searching.Searcher(opened, options)
      return self._searchers[options]

  def _any_searcher(self):
    return self._searcher(searching.SearchOptions(record=False))

  def _query(self, query, box):
    """Return a photo, or features, as a query whose features are in memory."""
    if isinstance(query, features.ImageFeatures):
      if box is not None:
        raise errors.InputError("a box goes with a photo, not with features")
      path, extracted = query.path, query
    else:
      path = os.fspath(query) if photo_forms.is_path(query) else None
      pixels, factor = photo_forms.pixels(query, self.model.rotate), 1.0
      if box is not None:
        pixels, factor = engine.Crop(box, scale_limits=True).cut(pixels)
      extracted = self.model.extractor.extract(pixels, factor)
    extracted = searching.as_stored(extracted)
    return searching.Query(path or "the photo", path, "", box, extracted)

  def _queries(self, sources, box, say):
    """Return queries with features, and the photos that failed."""
    from delf.extraction import extract

    if extract.find_features(sources) is not None:
      return searching.find_features(sources[0]), ()
    extracted, extraction = searching.extract_queries(
      self._require_open(),
      searching.find_photos(sources, box),
      say,
      self._device,
      self._model and self._model.extractor,
    )
    return extracted, extraction.failed


def _reopen(path, device):
  return Index(path, device=device)

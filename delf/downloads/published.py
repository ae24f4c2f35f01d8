"""Where the published data sets are, as data, and where their files go."""

import dataclasses
import hashlib
import json
import os

from delf.base import errors, files
from delf.downloads import archives, transfer
from delf.inference import zoo
from delf.python.datasets.revisited_op import dataset as revisited

# Kinds of files, by what is done with them.
ARCHIVE = "archive"  # A tar of images, unpacked.
GROUND_TRUTH = "ground truth"  # .mat or .pkl of Revisited Oxford and Paris.
TEXT = "text"  # CSV or list.
PAIRS = "pairs"  # .pkl of photos of one place.

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets/"
_CIRTORCH = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m/"
_TRAINING = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/"
_HOW = "http://ptak.felk.cvut.cz/personal/toliageo/share/how/dataset/"
_LANDMARKS = "https://s3.amazonaws.com/google-landmark/"

DATASETS = {
  "roxford5k": "Revisited Oxford: photos and ground truth",
  "rparis6k": "Revisited Paris: photos and ground truth",
  "revisited-1m": "a million distractors of both, in 100 parts",
  "sfm120k": "retrieval-SfM-120k: photos and pairs to train with",
  "gldv2": "Google Landmarks v2: train, index and test, in parts of about 1 GB",
}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """One file of a data set.

  Attributes:
    name: Path at a mirror, which is also what people see.
    urls: Addresses, the preferred one first.
    target: Path below the output folder: of the file, or of the folder that an
      archive goes to.
    kind: ARCHIVE, GROUND_TRUTH, TEXT or PAIRS.
    flatten: Whether images go into one folder, wherever in the archive.
    by_id: Whether images are called by an id alone, whose end is their folders.
    md5: Name, in the same sense, of a file with its MD5; "" if none.
    md5_url: Address of that file.
    size: About how many bytes; 0 if nothing is published about it.
  """

  name: str
  urls: tuple
  target: str
  kind: str = ARCHIVE
  flatten: bool = False
  by_id: bool = False
  md5: str = ""
  md5_url: str = ""
  size: int = 0


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of Google Landmarks v2.

  Attributes:
    parts: Number of its tar files.
    size: About how many bytes each has.
    texts: Names of its CSV files at the site.
  """

  parts: int
  size: int
  texts: tuple


SPLITS = {
  "train": Split(
    500,
    1_000_000_000,
    (
      "metadata/train.csv",
      "metadata/train_clean.csv",
      "metadata/train_attribution.csv",
      "metadata/train_label_to_category.csv",
      "metadata/train_label_to_hierarchical.csv",
    ),
  ),
  "index": Split(
    100,
    850_000_000,
    (
      "metadata/index.csv",
      "metadata/index_image_to_landmark.csv",
      "metadata/index_label_to_category.csv",
      "metadata/index_label_to_hierarchical.csv",
    ),
  ),
  "test": Split(
    20,
    500_000_000,
    (
      "metadata/test.csv",
      "ground_truth/recognition_solution_v2.1.csv",
      "ground_truth/retrieval_solution_v2.1.csv",
    ),
  ),
}

_DISTRACTOR_PARTS = 100


def files_of(dataset, splits=(), parts=None, images=True):
  """Returns the files of a data set, those that are small first.

  Args:
    dataset: Key of DATASETS.
    splits: Keys of SPLITS, for gldv2 and for it alone.
    parts: Numbers of the archives to get, of each split, or None for all:
      from 0 for gldv2, from 1 for revisited-1m, as their names have them.
    images: Whether archives are wanted, beside ground truth and CSV files.

  Returns:
    list of RemoteFile.

  Raises:
    InputError: If there is no such data set, split or part.
  """
  if dataset not in DATASETS:
    raise errors.InputError(f"one of {', '.join(DATASETS)}", repr(dataset))
  if (dataset == "gldv2") != bool(splits):
    raise errors.InputError(
      "--split train, index or test for gldv2, and for no other",
      f"{dataset} with {', '.join(splits) or 'none'}",
    )
  if dataset == "gldv2":
    found = [f for split in splits for f in _landmarks(split, parts)]
  elif dataset == "revisited-1m":
    found = _distractors(parts)
  else:
    if parts is not None:
      raise errors.InputError(
        "parts of gldv2 or revisited-1m", f"some of {dataset}"
      )
    found = _tuples() if dataset == "sfm120k" else _revisited(dataset)
  found = [file for file in found if images or file.kind != ARCHIVE]
  return sorted(found, key=lambda file: file.kind == ARCHIVE)


def _revisited(dataset):
  truth = [
    RemoteFile(
      f"gnd_{dataset}.{ending}",
      tuple(
        f"{base}{dataset}/gnd_{dataset}.{ending}"
        for base in (_REVISITED, _CIRTORCH)[: 1 + (ending == "pkl")]
      ),
      f"gnd_{dataset}.{ending}",
      GROUND_TRUTH,
    )
    for ending in ("mat", "pkl")
  ]
  if dataset == "roxford5k":
    place, stems = "oxbuildings", ["oxbuild_images"]
  else:
    place, stems = "parisbuildings", ["paris_1", "paris_2"]
  # Published anew in 2022; the former address is tried where that is gone.
  images = [
    RemoteFile(
      f"{stem}-v1.tgz",
      (f"{_OXFORD}{place}/{stem}-v1.tgz", f"{_OXFORD}{place}/{stem}.tgz"),
      revisited.IMAGE_FOLDERS[dataset],
      flatten=True,
    )
    for stem in stems
  ]
  return truth + images


def _tuples():
  large, small = "retrieval-SfM-120k", "retrieval-SfM-30k"
  pairs = [
    RemoteFile(name, (base + name,), f"train/{folder}/{file}", PAIRS)
    for folder, base, name in (
      (large, _TRAINING, f"dbs/{large}.pkl"),
      (large, _TRAINING, f"dbs/{large}-whiten.pkl"),
      (small, _TRAINING, f"dbs/{small}-whiten.pkl"),
      (large, _HOW, f"{large}-val-eccv2020.pkl"),
    )
    for file in [name.split("/")[-1]]
  ]
  name, target = "ims/ims.tar.gz", f"train/{large}/ims"
  return [*pairs, RemoteFile(name, (_TRAINING + name,), target, by_id=True)]


def _distractors(parts):
  text = RemoteFile(
    "revisitop1m.txt",
    (f"{_DISTRACTORS}revisitop1m.txt",),
    "revisitop1m/revisitop1m.txt",
    TEXT,
  )
  names = [
    f"revisitop1m.{part}.tar.gz"
    for part in _checked(parts, range(1, _DISTRACTOR_PARTS + 1))
  ]
  images = [
    RemoteFile(name, (f"{_DISTRACTORS}jpg/{name}",), "revisitop1m/jpg")
    for name in names
  ]
  return [text, *images]


def _landmarks(split, parts):
  if split not in SPLITS:
    raise errors.InputError(f"a split, {', '.join(SPLITS)}", repr(split))
  known, folder = SPLITS[split], f"gldv2_dataset/{split}"
  texts = [
    RemoteFile(
      name, (_LANDMARKS + name,), f"{folder}/{name.split('/')[-1]}", TEXT
    )
    for name in known.texts
  ]
  images = []
  for part in _checked(parts, range(known.parts)):
    md5 = f"md5sum/{split}/md5.images_{part:03d}.txt"
    name = f"{split}/images_{part:03d}.tar"
    images.append(
      RemoteFile(
        name,
        (_LANDMARKS + name,),
        folder,
        md5=md5,
        md5_url=_LANDMARKS + md5,
        size=known.size,
      )
    )
  return texts + images


def _checked(parts, known):
  """Returns which parts are meant, in order and each once."""
  if parts is None:
    return known
  unknown = sorted(set(parts) - set(known))
  if unknown:
    raise errors.InputError(
      f"parts from {known[0]} to {known[-1]}", f"part {unknown[0]}"
    )
  return sorted(set(parts))


_RECORDS = "downloads.json"


@dataclasses.dataclass(frozen=True)
class Record:
  """What a download was: kept, and compared with every later one."""

  url: str
  size: int  # In bytes.
  sha256: str  # Hexadecimal.


def install(known, *, url=None, sha256=None, force=False):
  """Downloads an artefact and unpacks it into the cache.

  The SHA-256 of the archive is recorded at the first download (the publisher
  names none) and must be the same ever after.

  Args:
    known: zoo_table.Artefact.
    url: Address to use instead of the published one.
    sha256: What the archive must have, instead of what is recorded.
    force: Whether to download what is there already.

  Returns:
    pathlib.Path of the folder.

  Raises:
    InputError: If it cannot be had, or is not what it should be.
  """
  folder = zoo.folder(known)
  if known.url is None:
    reason = known.unavailable or "which is in the package"
    raise errors.InputError("a model to download", f"{known.name}, {reason}")
  url = url or known.url
  expected = _checked_digest(sha256) or _recorded_digest(known.name)
  if folder.is_dir() and not force:
    return folder
  path = zoo.cache_folder() / "downloads" / f"{known.name}.tar.gz"
  transfer.fetch(url, path)
  record = Record(url, path.stat().st_size, file_digest(path))
  if expected not in (None, record.sha256):
    _keep_aside(path, expected, record, by_user=sha256 is not None)
  try:
    archives.unpack(path, folder, required=known.wanted)
  except errors.InputError as error:
    # The file goes, so the address says what it is about.
    raise errors.InputError(error.expected, error.received, url) from None
  finally:
    path.unlink()
  _write_record(known.name, record)
  return folder


def recorded(name):
  """Returns the Record of the last download of an artefact, or None."""
  fields = _read_records().get(name)
  return Record(**fields) if fields else None


def file_digest(path):
  """Returns the SHA-256 of a file, hexadecimal."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(2**20):
      digest.update(chunk)
  return digest.hexdigest()


def _checked_digest(sha256):
  if sha256 is None:
    return None
  digest = sha256.strip().lower()
  if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
    raise errors.InputError("a SHA-256, 64 hexadecimal digits", repr(sha256))
  return digest


def _recorded_digest(name):
  record = recorded(name)
  return record.sha256 if record else None


def _keep_aside(path, expected, record, by_user):
  """Renames a file that is not the expected one, and says so."""
  aside = path.with_name(f"{path.name}.{record.sha256[:12]}.unexpected")
  os.replace(path, aside)
  whose = "given" if by_user else "recorded at the first download"
  advice = "" if by_user else f"; if it is right, give --sha256 {record.sha256}"
  raise errors.InputError(
    f"SHA-256 {expected} ({whose})",
    f"{record.sha256}, {record.size} bytes, from {record.url} (kept){advice}",
    aside,
  )


def _records_path():
  return zoo.cache_folder() / _RECORDS


def _read_records():
  path = _records_path()
  if not path.exists():
    return {}
  try:
    records = json.loads(files.read_bytes(path))
    return {
      name: dataclasses.asdict(Record(**r)) for name, r in records.items()
    }
  except (ValueError, TypeError, AttributeError):
    raise errors.InputError(
      "the record of downloads (delete it to begin a new one)",
      "something else",
      path,
    ) from None


def _write_record(name, record):
  records = _read_records()
  records[name] = dataclasses.asdict(record)
  text = json.dumps(records, indent=2, sort_keys=True) + "\n"
  files.write_bytes(_records_path(), text.encode())

"""`delf download`: downloads published data sets."""

import argparse
import os
import re

from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf download roxford5k --out data          photos and ground truth
  delf download revisited-1m --parts 1-10     a tenth of the distractors
  delf download gldv2 --split index --parts 0-9 --dry-run
  delf download gldv2 --split train --only train_clean.csv
  delf download rparis6k --mirror /mnt/usb    from a folder, without a network

Scripts and guides expect the files where they are: photos in oxford5k_images/
or paris6k_images/ beside gnd_<name>.mat and .pkl, distractors in
revisitop1m/jpg/, training pairs and their photos in train/retrieval-SfM-120k/,
Google Landmarks in gldv2_dataset/<split>/. An archive is deleted once it is
unpacked. An interrupted run resumes when it is repeated; several runs for
different parts may be active at a time.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "roxford5k, rparis6k, revisited-1m, sfm120k or gldv2"
  add("dataset", metavar="DATASET", help=help)
  add("--out", default="data", metavar="DIR", help="folder (default: data)")
  help = (
    "of gldv2: train (500 parts of 1 GB), index (100 of 0.85 GB) or test "
    "(20 of 0.5 GB); may be repeated"
  )
  add("--split", action="append", default=[], metavar="NAME", help=help)
  help = (
    "of gldv2 (from 0) or revisited-1m (from 1): numbers of archives, such as "
    "0-9 or 3,7 (default: all)"
  )
  add("--parts", type=_parts, metavar="A-B", help=help)
  help = "only ground truth, CSV files and lists"
  add("--no-images", action="store_true", help=help)
  help = (
    "of gldv2: keep only images whose ids are in this file, a list or a CSV "
    "such as train_clean.csv"
  )
  add("--only", metavar="FILE", help=help)
  help = (
    "source of the files in place of the published addresses; a local folder "
    "needs no network"
  )
  add("--mirror", metavar="URL|FOLDER", help=help)
  help = "files to download at a time"
  arguments.add_number(parser, "--at-once", help, 1)
  help = (
    "use files whose MD5 is not the published one (default: they are kept and "
    "reported, but not used)"
  )
  add("--ignore-checksum", action="store_true", help=help)
  add("--force", action="store_true", help="download existing files again")
  help = "list the files to download, and stop"
  add("--dry-run", action="store_true", help=help)
  arguments.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
  """Download, and print a summary; return the exit status."""
  from delf.base import errors, progress
  from delf.downloads import datasets, published

  if args.only and args.dataset != "gldv2":
    raise errors.InputError(f"--only is for gldv2, not {args.dataset}")
  chosen = published.files_of(
    args.dataset, tuple(args.split), args.parts, images=not args.no_images
  )
  names = "mirror", "force", "ignore_checksum", "at_once"
  options = arguments.pick(args, *names)
  options["only"] = datasets.read_ids(args.only) if args.only else None
  free = datasets.free_bytes(args.out)
  if args.dry_run:
    _print_plan(args, list(datasets.plan(chosen, args.out, **options)), free)
    return 0
  size = sum(file.size for file in chosen)
  if size > free and not args.only:
    output.warning(
      f"{args.out}: the files have about {_human(size)} in all, and"
      f" {_human(free)} are free on this disk"
    )
  say = progress.say if not args.json else (lambda line: None)
  report = datasets.download(chosen, args.out, say, **options)
  for failure in report.failed:
    output.error(failure)
  missing = _missing(args) if not (report.failed or args.no_images) else ()
  document = {
    "dataset": args.dataset,
    "out": os.path.abspath(args.out),
    "done": list(report.done),
    "skipped": list(report.skipped),
    "failed": [{"name": f.path, "reason": f.reason} for f in report.failed],
    "bytes": report.bytes,
    "missing_images": list(missing),
  }
  line = (
    f"{args.out}: {len(report.done)} files downloaded"
    f" ({_human(report.bytes)}), {len(report.skipped)} already there,"
    f" {len(report.failed)} failed"
  )
  output.show(args, document, line)
  return 1 if missing else report.exit_status


def _missing(args):
  """Report images of the ground truth that are missing, and return them."""
  from delf.evaluation import ground_truth
  from delf.python.datasets.revisited_op import dataset

  if args.dataset not in dataset.IMAGE_FOLDERS:
    return []
  truth = os.path.join(args.out, f"gnd_{args.dataset}.pkl")
  folder = os.path.join(args.out, dataset.IMAGE_FOLDERS[args.dataset])
  number, missing = ground_truth.missing_images(truth, folder)
  if missing:
    output.error(
      f"{folder}: {len(missing)} of the {number} images of the ground truth are"
      f" missing, such as {missing[0]}"
    )
  elif not args.json:
    print(f"{folder}: all {number} images of the ground truth exist")
  return missing


def _print_plan(args, entries, free):
  known = sum(size for _, _, size in entries if size)
  document = {
    "dataset": args.dataset,
    "out": os.path.abspath(args.out),
    "bytes": known,
    "free_bytes": free,
    "files": [
      {"name": f.name, "url": f.urls[0], "state": state, "bytes": size}
      for f, state, size in entries
    ],
  }
  lines = []
  for file, state, size in entries:
    text = "size not known" if size is None else _human(size)
    lines.append(f"{state:<9} {text:>15}  {file.name}")
  unknown = sum(size is None for _, _, size in entries)
  more = f", and {unknown} files of unknown size" if unknown else ""
  lines.append(
    f"{args.out}: about {_human(known)} to download{more}; free on this disk: "
    f"{_human(free)} (unpacking needs one archive's size more)"
  )
  output.show(args, document, *lines)


def _parts(text):
  """Numbers of `0-9` or `3,7,10-12`."""
  numbers: list[int] = []
  for part in text.split(","):
    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
    if not match:
      raise ValueError
    numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
  if not numbers:
    raise ValueError
  return numbers


_parts.__name__ = "range of parts, such as 0-9 or 3,7"


def _human(size):
  """A number of bytes for people."""
  for unit in ("bytes", "kB", "MB", "GB"):
    if size < 1000 or unit == "GB":
      break
    size /= 1000
  return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"

"""Files of lines that are only ever appended to, whatever ends the program."""

import os


def open_to_append(path):
  """Opens a file of lines to append whole ones.

  A last line that a killed program left without its end gets one, so that what
  follows does not run into it.

  Args:
    path: Local path; the folder must exist.

  Returns:
    Binary file, which the caller closes.
  """
  file = open(path, "ab+")  # noqa: SIM115 (the caller closes it)
  if file.tell():
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
      file.write(b"\n")
  return file

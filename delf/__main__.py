"""`python -m delf`: the same as the command `delf`."""

import sys

from delf.cli import main

if __name__ == "__main__":
  sys.exit(main.main())

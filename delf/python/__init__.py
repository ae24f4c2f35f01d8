"""The library; its public names are listed in `delf`."""

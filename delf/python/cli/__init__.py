"""The command `delf`."""

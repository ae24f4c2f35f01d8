"""The command `delf`, one module a subcommand."""

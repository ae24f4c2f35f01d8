"""`delf completion`: names of commands and options, completed by a shell."""

EXAMPLES = """\
examples:
  delf completion bash > ~/.local/share/bash-completion/completions/delf
  delf completion zsh > ~/.zfunc/_delf        with ~/.zfunc in fpath
  delf completion tcsh > ~/.delf.tcsh         and `source ~/.delf.tcsh`
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  help = "bash, zsh or tcsh"
  parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help=help)


def run(args):
  """Print the completions."""
  import shtab

  from delf.cli import main

  print(shtab.complete(main.make_parser(whole=True), args.shell))

"""`leed-jax COMMAND ...` and `python -m leed_jax COMMAND ...`: all commands by name."""

import importlib
import sys
from collections.abc import Sequence

from leed_jax.cli.common import ERROR_STATUS, leave
from leed_jax.version import __version__

COMMANDS = {
    "run": "train LEED or a baseline, continue a run, or train it further",
    "generate": "ask a language model for instructions and record demonstrations",
    "demonstrations": "list, show, verify, replay and export recorded sets",
    "evaluate": "evaluate the policies of a run on fresh episodes",
    "compare": "compare finished runs: tables and learning curves",
    "study": "train all runs behind one result, or tune settings",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Args:
        arguments: the command line; that of the process if None.

    Returns:
        The command's exit status; 2 if there is no such command.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("", [])
    if name in COMMANDS:
        return int(importlib.import_module(f"leed_jax.cli.{name}").main(rest))
    if name == "--version":
        print(f"leed_jax {__version__}")
        return 0
    if name in ("", "-h", "--help"):
        print(_help())
        return 0
    print(f"error: there is no command {name}.\n\n{_help()}", file=sys.stderr)
    return ERROR_STATUS


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: leed-jax COMMAND ...    (or python -m leed_jax.COMMAND ...)", ""]
    lines += [f"  {name:<{width}}{what}" for name, what in COMMANDS.items()]
    lines += ["", "leed-jax COMMAND --help lists what a command takes. Flags: --help, --version"]
    return "\n".join(lines)


def script() -> None:
    """The console script `leed-jax`."""
    leave(main)

"""What the command lines share: errors become one paragraph and an exit status; flags."""

import dataclasses
import io
import logging
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from leed_jax.config import Config
from leed_jax.config.options import Option, options
from leed_jax.errors import LeedError
from leed_jax.version import __version__

ERROR_STATUS = 2
KEY_WIDTH = 34


def exit_on_error(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; an error that is meant for the user is printed without a traceback.

    Args:
        command: what to run; it returns the exit status.
    """
    # A request that is tried again is no news to the user; one that fails for good is reported where it was made.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        return command()
    except LeedError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR_STATUS
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT


def exit_printing(command: Callable[[], int]) -> int:
    """Do as `exit_on_error` does with a command that prints what others wrote, and that others may stop reading.

    Args:
        command: what to run; it returns the exit status.

    Returns:
        Its exit status, 2 if what it prints cannot be written, or 141 if nobody reads on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # There may be letters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = exit_on_error(command)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at its end, to where nothing can fail any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"error: {error.strerror}", file=sys.stderr)
        return ERROR_STATUS
    return status


def leave(status: int) -> NoReturn:
    """End the process with an exit status; after an interruption at once, without waiting for what a device computes.

    Args:
        status: what `exit_on_error` returned.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if status == 128 + signal.SIGINT:
        os._exit(status)
    sys.exit(status)


def answer_flags(arguments: Sequence[str], about: str, hidden: tuple[str, ...] = ()) -> bool:
    """Print what `--help` or `--version` ask for.

    Args:
        arguments: the command line.
        about: usage and examples, to stand above the list of keys.
        hidden: sections that this command does not use.

    Returns:
        Whether there was such a flag.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(about, hidden))
        return True
    if "--version" in arguments:
        print(f"leed_jax {__version__}")
        return True
    return False


def help_text(about: str, hidden: tuple[str, ...] = ()) -> str:
    """Usage, and every key with its default and its meaning."""
    lines = [about.strip(), "", "Keys, with their defaults (an experiment may set others):"]
    width = max(shutil.get_terminal_size((100, 24)).columns, 2 * KEY_WIDTH)
    for option in options(Config):
        if option.key.split(".")[0] in hidden:
            continue
        lines.extend(["", f"{option.key}:"] if option.section else _describe(option, width))
    lines += ["", "Flags: --help, --version"]
    return "\n".join(lines)


def _describe(option: Option, width: int) -> list[str]:
    shown = "..." if option.default is dataclasses.MISSING else _written(option.default)
    left = f"  {option.key}={shown}"
    wrapped = textwrap.wrap(option.meaning, width - KEY_WIDTH, break_on_hyphens=False) or [""]
    first = [f"{left:<{KEY_WIDTH}}{wrapped.pop(0)}"] if len(left) < KEY_WIDTH else [left]
    return [*first, *(" " * KEY_WIDTH + line for line in wrapped)]


def _written(value: Any) -> str:
    """A default as one would type it."""
    return "null" if value is None else str(value).replace(" ", "")

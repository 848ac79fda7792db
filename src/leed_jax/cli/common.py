"""Shared by all commands: exit statuses, errors without tracebacks, and the flags --help and --version."""

import dataclasses
import io
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from leed_jax.config.options import Option, options
from leed_jax.errors import LeedError
from leed_jax.files import cache_folder
from leed_jax.version import __version__

ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT
BROKEN_PIPE_STATUS = 141  # 128 + SIGPIPE, which Windows lacks
KEY_WIDTH = 34


def exit_on_error(command: Callable[[], int]) -> int:
    """Run a command; print errors that are meant for the user as one line, without a traceback.

    Args:
        command: what to run; it returns the exit status.

    Returns:
        The exit status: 2 after an error, 130 after Ctrl-C, 141 if standard output was closed.
    """
    # Retries are not worth a line each; a request that finally fails is reported as an error.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names read from files may have letters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command()
    except LeedError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR_STATUS
    except OSError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED_STATUS


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, so that another run with the same shapes starts at once.

    They are in `xla` in the cache folder (see `leed_jax.files.cache_folder`), by a hash of program, device and
    versions. Delete the folder to clear it. JAX_COMPILATION_CACHE_DIR, if set, takes its place.
    """
    import jax  # noqa: PLC0415 - commands that only print need not load it

    folder = cache_folder()
    if folder is not None and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))


def leave(main: Callable[[], int]) -> NoReturn:
    """Run a command line and end the process with its exit status.

    Standard output may be closed early, as in `--help | head -1`; that prints no traceback.

    Args:
        main: the command line's `main`.
    """
    status: Any
    try:
        status = main()
    except SystemExit as error:  # argparse, after --help or a wrong argument
        status = error.code
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes again at exit; this time nothing can fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or _report(error)
    if status == INTERRUPTED_STATUS:
        os._exit(status)  # at once, without waiting for the device
    sys.exit(status)


def _report(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE_STATUS
    place = f"{error.filename}: " if error.filename else ""
    print(f"error: {place}{error.strerror or error}", file=sys.stderr)
    return ERROR_STATUS


def answer_flags(arguments: Sequence[str], about: str, kind: type) -> bool:
    """Answer `--help` and `--version`.

    Args:
        arguments: the command line.
        about: usage and examples, printed before the list of keys.
        kind: the class of the command's configuration.

    Returns:
        Whether one of the flags was given.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(about, kind))
        return True
    if "--version" in arguments:
        print(f"leed_jax {__version__}")
        return True
    return False


def help_text(about: str, kind: type) -> str:
    """The help text: usage, then every key with its default and meaning."""
    lines = [about.strip(), "", "Keys, with their defaults (an experiment may set others):"]
    width = max(shutil.get_terminal_size((100, 24)).columns, 2 * KEY_WIDTH)
    for option in options(kind):
        section = ["", *textwrap.wrap(f"{option.key}: {option.meaning}", width, break_on_hyphens=False)]
        lines.extend(section if option.section else _describe(option, width))
    lines += ["", "Flags: --help, --version"]
    return "\n".join(lines)


def _describe(option: Option, width: int) -> list[str]:
    shown = "..." if option.default is dataclasses.MISSING else _written(option.default)
    left = f"  {option.key}={shown}"
    wrapped = textwrap.wrap(option.meaning, width - KEY_WIDTH, break_on_hyphens=False) or [""]
    first = [f"{left:<{KEY_WIDTH}}{wrapped.pop(0)}"] if len(left) < KEY_WIDTH else [left]
    return [*first, *(" " * KEY_WIDTH + line for line in wrapped)]


def _written(value: Any) -> str:
    """A default as typed on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value).replace(" ", "")

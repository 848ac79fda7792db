"""On whose account a count of spending is kept, and a meter that goes on with it."""

import contextlib
import os
import re
import secrets
from functools import partial
from pathlib import Path

from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.llm.journal import Journal
from leed_jax.llm.limits import Limits, Meter

OWN_ACCOUNT = "run"
_FILE = "account"
_ID = re.compile(r"[0-9a-f]{32}")


def spender_of(folder: Path | str, *, shared: bool) -> str:
    """Return on whose account the work of a folder is booked, wherever the folder may be moved.

    Args:
        folder: The folder of a generation or a run.
        shared: Whether its journal is one that other folders use, too; otherwise nobody else has an account in it.

    Raises:
        RunDirectoryError: The folder cannot be written, or its account is damaged.
    """
    return account_id(folder) if shared else OWN_ACCOUNT


def account_id(folder: Path | str) -> str:
    """Return the id of a folder's account, a random number in its file `account`, which is made at the first call.

    It stays with the folder when that is moved. A copy of the folder has the same account.

    Args:
        folder: The folder; it is made, too.

    Raises:
        RunDirectoryError: The folder cannot be written, or the file holds anything else.
    """
    path = Path(folder) / _FILE
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path, secrets.token_hex(16))
        text = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise RunDirectoryError(
            f"The account {path} cannot be read or made ({error.strerror or error}); check the path, its permissions "
            "and the free space."
        ) from error
    if not _ID.fullmatch(text):
        raise RunDirectoryError(
            f"{path} does not hold the 32 hex digits of an account; restore it from a copy, or delete it to begin a "
            "new account, on which nothing is spent yet."
        )
    return text


def _create(path: Path, text: str) -> None:
    """Make a file in one piece; whoever comes first decides what is in it."""
    partial_ = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial_.open("x", encoding="ascii") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial_, path)
        except FileExistsError:
            return
        except OSError:  # no links on this file system
            partial_.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial_.unlink(missing_ok=True)


def resumed_meter(limits: Limits, journal: Journal, spender: str) -> Meter:
    """Return a meter that goes on where this spender was, and notes in the journal all that it lets through.

    What was reserved for attempts on their way when a process was killed stays spent, so that the caps hold over any
    number of restarts. Rates are not noted: the minute that they look back on begins anew with each meter, and each
    process has its own.

    Args:
        limits: The limits.
        journal: Where the count is kept.
        spender: On whose account (see `spender_of`); runs that share a journal, but not a budget, need different
            names.

    Raises:
        ConfigurationError: The name is empty.
        RunDirectoryError: The journal cannot be read.
    """
    if not spender:
        raise ConfigurationError("The spender of a meter has no name; give it one, such as the name of the run.")
    return Meter(limits, journal.spent(spender), ledger=partial(journal.charge, spender))

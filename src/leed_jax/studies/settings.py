"""Settings by dotted key, as text, and as names of folders."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from leed_jax.config.compose import quoted
from leed_jax.errors import ConfigurationError
from leed_jax.evaluation.runs import dotted

# Texts that a setting takes without quotes.
_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.\.?/)[A-Za-z0-9_./:-]*")
_NOT_TEXTS = ("null", "true", "false", "inf", "nan")
_RESERVED = {
    "seed": "the seeds are those of the study: set seeds.first",
    "num_seeds": "the seeds are those of the study: set seeds.count and seeds_per_run",
    "out": "the study chooses the folders of its runs: pass out=DIR on the command line",
    "resume": "a study resumes by itself when its command is given again",
    "experiment": "all variants start from one experiment: set experiment at the top of the file",
}


def flat_settings(values: Any, where: str) -> dict[str, Any]:
    """Settings by dotted key, from nested or dotted ones.

    Args:
        values: as they stand in the file; None counts as empty.
        where: where they stand, for messages.

    Raises:
        ConfigurationError: they are no settings, or a key that the study itself decides about is among them.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} must hold keys and values, as in {{algorithm: ippo}}; it is {values!r}.")
    found: dict[str, Any] = {}
    for key, value in dotted(values):
        if key in _RESERVED:
            raise ConfigurationError(f"{where}.{key}: {_RESERVED[key]}.")
        if key in found:
            raise ConfigurationError(f"{where}.{key} is there twice, nested and with a dot; leave one of them out.")
        found[key] = value
    return found


def as_text(value: Any) -> str:
    """A value as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXTS else quoted(value)
    if isinstance(value, Sequence):
        return "[" + ",".join(map(as_text, value)) + "]"
    return str(value)


def as_label(value: Any) -> str:
    """A value as people read it, without quotes: in headings, in names of folders, and to choose points by."""
    return value if isinstance(value, str) else as_text(value)


def folder_name(label: Any) -> str:
    """A label or a value as the name of a folder; -1 becomes minus-1."""
    signed = re.sub(r"(?<![A-Za-z0-9._)])-(?=\.?\d|inf\b)", "-minus-", as_label(label))
    return re.sub(r"[^A-Za-z0-9._]+", "-", signed).strip("-.")

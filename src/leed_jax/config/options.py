"""The keys of a configuration, read off its dataclasses: for help texts and for better error messages."""

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """One key.

    Attributes:
        key: the dotted key.
        default: its default; `dataclasses.MISSING` if it has none.
        meaning: what the docstring of its class says about it.
        whole: whether its value is a whole number.
        text: whether its value is a text.
        section: whether it holds further keys.
        choices: the words that it takes; empty if it takes others.
    """

    key: str
    default: Any
    meaning: str
    whole: bool
    text: bool
    section: bool
    choices: tuple[str, ...] = ()


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """Every key of a dataclass and of the dataclasses in it, in order, a section before its keys."""
    hints, meanings = typing.get_type_hints(cls), attribute_meanings(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], prefix + field.name
        section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        meaning = inspect.cleandoc(hint.__doc__ or "").splitlines()[0] if section else meanings.get(field.name, "")
        choices = field.metadata.get("choices", ())
        if not all(re.search(rf"\b{choice}\b", meaning) for choice in choices):
            meaning = f"{meaning.rstrip('.')}: {', '.join(choices)}."
        yield Option(key, default, meaning, int in kinds, str in kinds, section, choices)
        if section:
            yield from options(hint, f"{key}.")


def attribute_meanings(cls: type) -> dict[str, str]:
    """The entries under `Attributes:` in the docstring of a class."""
    # Python 3.13 strips the indentation when it compiles, earlier versions do not.
    _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    entries = re.split(r"^ {4}(\w+): ", attributes, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2], strict=True)}


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that is most like `key`, compared as a whole and then by the part after the last dot."""
    keys = list(known)
    close = difflib.get_close_matches(key, keys, n=1)
    if close:
        return close[0]
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in reversed(keys)}
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last_part, n=1)
    return by_last_part[close[0]] if close else None


def one_sentence(error: Exception) -> str:
    """The first line of an OmegaConf error, with its key and without the trail of internal names under it."""
    key = getattr(error, "full_key", None) or ""
    if key and re.search("is not Optional|Incompatible value 'None'", str(error)):
        return f"{key} cannot be null; leave it out to have its default."
    message = str(error).strip().splitlines() or [type(error).__name__]
    prefix = "" if key in message[0] else f"{key}: "
    return f"{prefix}{message[0].rstrip('.')}."

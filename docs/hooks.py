"""Hooks of the documentation's build: parts of pages that are written from the code, so that they cannot drift.

- `<!-- options: NAME -->` becomes every key of `leed_jax.config.NAME`, with default, range and meaning.
- `<!-- help: COMMAND -->` becomes what `python -m leed_jax.COMMAND --help` prints.
- `::: leed_jax.NAME` is the public name; mkdocstrings is given the module that defines it.
"""

import contextlib
import dataclasses
import importlib
import io
import math
import os
import re
import typing
from collections.abc import Iterator
from typing import Any

import leed_jax
from leed_jax import config as settings
from leed_jax.config.options import Option, options


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the marks of a page; MkDocs calls it before the page is rendered."""
    markdown = re.sub(r"<!-- options: (\w+) -->", lambda mark: "\n".join(_options(mark[1])), markdown)
    markdown = re.sub(r"<!-- help: ([\w ]+) -->", lambda mark: f"```text\n{help_text(mark[1])}\n```", markdown)
    return re.sub(r"^::: leed_jax\.(\w+)$", lambda mark: f"::: {defined_in(mark[1])}", markdown, flags=re.MULTILINE)


def defined_in(name: str) -> str:
    """The full path of a public name of leed_jax."""
    thing = getattr(leed_jax, name)
    return f"{thing.__module__}.{thing.__qualname__}"


def help_text(command: str) -> str:
    """What a command prints with `--help`, without the list of configuration keys."""
    name, *rest = command.split()
    main = importlib.import_module(f"leed_jax.cli.{name}").main
    printed = io.StringIO()
    os.environ["COLUMNS"] = "88"
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*rest, "--help"])
    return printed.getvalue().partition("\nKeys, with their defaults")[0].strip()


def _options(name: str) -> Iterator[str]:
    cls = getattr(settings, name)
    for option in options(cls):
        if option.section:
            yield f"\n## {option.key}\n\n{_escaped(option.meaning)}\n"
        else:
            default = "" if option.default in ("", {}) else f" = `{_written(option.default)}`"
            yield f"`{option.key}`{default}{_range(cls, option)}\n:   {_escaped(option.meaning)}\n"


def _class_of(cls: Any, key: str) -> Any:
    """The class of a section by its dotted key."""
    for part in key.split("."):
        cls = typing.get_type_hints(cls)[part]
    return cls


def _range(cls: Any, option: Option) -> str:
    """The numbers that a key takes, in brackets; its meaning lists words."""
    section, _, last = option.key.rpartition(".")
    owner = _class_of(cls, section) if section else cls
    limits = {field.name: field.metadata for field in dataclasses.fields(owner)}[last]
    if "above" in limits:
        return f" (more than {_number(limits['above'])})"
    if "low" not in limits:
        return ""
    if limits["high"] == math.inf:
        return f" (at least {_number(limits['low'])})"
    return f" ({_number(limits['low'])} to {_number(limits['high'])})"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _escaped(text: str) -> str:
    return re.sub(r"([*_<\[])", r"\\\1", text)

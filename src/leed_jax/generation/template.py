"""Prompt templates: versioned files, chosen by name, whose placeholders are filled in."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from leed_jax.errors import ConfigurationError
from leed_jax.generation.collective import ALL_AGENTS

NEWEST = {"relational": "plan_v2", "episodes": "episodes_v1"}
SECTIONS = ("system", "task", "account", "feedback", "request")
MAX_BYTES = 100_000

# What a prompt cannot do without.
_NEEDED = {
    "task": ("description", "agents", "commands", "parameters"),
    "account": ("account",),
    "feedback": ("feedback",),
    "request": (),
}
_MARKER = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Template:
    """The text of a prompt, in sections.

    Attributes:
        name: the name of a template that comes with leed_jax, or of the file.
        sha256: the hash of the file, so that a record tells exactly which text was used.
        sections: the text of each of `SECTIONS`, with placeholders in braces.
    """

    name: str
    sha256: str
    sections: Mapping[str, str]

    @property
    def collective(self) -> bool:
        """Whether it tells the model of the name that stands for every agent."""
        return any(ALL_AGENTS in text for text in self.sections.values())

    def fill(self, section: str, values: Mapping[str, object]) -> str:
        """A section with its placeholders replaced; braces around anything else stay as they are.

        The values are put in as they are: nothing in them is taken for a placeholder.

        Args:
            section: one of `SECTIONS`.
            values: what to put in, by name.
        """
        return _PLACEHOLDER.sub(lambda m: str(values.get(m[1], m[0])), self.sections[section]).strip()


def load_template(choice: str, kind: str) -> Template:
    """Load a template.

    Args:
        choice: the name of a template that comes with leed_jax, or a file; empty for the newest of this kind. A file is
            cut into sections by lines such as `<!-- request -->`; sections that it lacks are those of the newest
            template, and a file without any such line is the section `task`.
        kind: the kind of plan, "relational" or "episodes".

    Raises:
        ConfigurationError: there is no such template, it cannot be read, is for the other kind, or lacks a placeholder.
    """
    newest = _packaged(NEWEST[kind])
    if choice in ("", newest.name):
        return newest
    prefix = newest.name.rpartition("_")[0]
    names = sorted(name for name in packaged_names() if name.startswith(prefix))
    if choice in packaged_names() and choice not in names:
        raise ConfigurationError(
            f"generate.prompt={choice} is not for generate.kind={kind}; use {' or '.join(names)}, or a file."
        )
    chosen = _packaged(choice) if choice in names else _from_file(choice, names)
    whole = Template(chosen.name, chosen.sha256, {**newest.sections, **chosen.sections})
    _check(whole, kind)
    return whole


def packaged_names() -> list[str]:
    """Names of the templates that come with leed_jax."""
    folder = resources.files("leed_jax.generation").joinpath("templates")
    return [file.name.removesuffix(".md") for file in folder.iterdir() if file.name.endswith(".md")]


def _packaged(name: str) -> Template:
    return _read(name, resources.files("leed_jax.generation").joinpath(f"templates/{name}.md").read_bytes())


def _from_file(choice: str, names: list[str]) -> Template:
    path = Path(choice)
    try:
        if not path.expanduser().is_file():
            raise ConfigurationError(
                f"generate.prompt={choice[:200]}: there is no such file or template; the templates are "
                f"{', '.join(names)}."
            )
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"generate.prompt={choice}: the file has more than {MAX_BYTES} bytes.")
        return _read(path.name, content)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"generate.prompt={choice[:200]} cannot be read as UTF-8 text: {error}.") from None


def _read(name: str, content: bytes) -> Template:
    text = content.decode("utf-8").replace("\r\n", "\n")
    first, *rest = _MARKER.split(text)
    sections = dict(zip(rest[::2], rest[1::2], strict=True)) if rest else {"task": first}
    return Template(name, hashlib.sha256(content).hexdigest(), sections)


def _check(template: Template, kind: str) -> None:
    unknown = sorted(set(template.sections) - set(SECTIONS))
    if unknown:
        raise ConfigurationError(
            f"generate.prompt={template.name} has a section {unknown[0]}; the sections are {', '.join(SECTIONS)}."
        )
    needed = {**_NEEDED, "request": ("states",) if kind == "episodes" else ()}
    for section, names in needed.items():
        missing = [name for name in names if f"{{{name}}}" not in template.sections[section]]
        if missing:
            raise ConfigurationError(
                f"generate.prompt={template.name}: the section {section} lacks the placeholder {{{missing[0]}}}."
            )

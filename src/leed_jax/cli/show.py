"""What is in a set, as text for people and as JSON for programs. All words of a manifest are shown escaped."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.demonstrations.format import ARRAYS, MANIFEST, TRANSCRIPT, is_number, read_manifest
from leed_jax.demonstrations.loading import packaged_folder, parse_arrays, read_files, recorded_sets
from leed_jax.demonstrations.transcript import check_transcript
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import printable

_ACTIVE_AXES = 3
_KILO = 1000


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table with aligned columns.

    Args:
        headings: a heading for each column.
        rows: the cells.
        left: how many columns stand on the left of their place; the others, numbers, on the right.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


# --- list -------------------------------------------------------------------------------------------------------


def list_sets(folder: Path | None) -> Iterator[str]:
    """A table of the sets that come with leed_jax and of those below a folder; broken ones are told after it.

    Raises:
        DemonstrationError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise DemonstrationError(f"{printable(str(folder), 200)} is not a folder; name one that holds sets.")
    found = [(name, packaged_folder() / name) for name in recorded_sets()]
    found += [(str(path), path) for path in _sets_below(folder)] if folder is not None else []
    rows, broken = [], []
    for name, path in found:
        try:
            rows.append(_row(name, path))
        except DemonstrationError as error:
            broken.append(f"broken: {printable(str(error), 1000)}")
    headings = ("set", "environment", "model", "kind", "plans", "return", "episodes", "size")
    yield from format_table(headings, rows, left=4)
    yield from broken


def _sets_below(folder: Path) -> list[Path]:
    manifests = sorted(folder.rglob(MANIFEST))
    # Many kinds of software write a manifest.json.
    return [manifest.parent for manifest in manifests if _has_files(manifest.parent)]


def _has_files(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in (TRANSCRIPT, ARRAYS))
    except OSError:
        return False


def _row(name: str, path: Path) -> tuple[str, ...]:
    manifest = read_manifest(path)
    returns = [plan["report_return_per_agent"] for plan in manifest["plans"]]
    # Plans that are each for one initial state are only good together.
    told = returns[:1] if manifest["kind"] == "relational" else returns
    mean = None if not told or None in told else float(np.mean(told))
    recorded = manifest["recorded"]
    return (
        printable(name, 200),
        printable(manifest["environment"]["name"].rpartition(":")[2]),
        printable(manifest["model"]),
        manifest["kind"],
        str(len(manifest["plans"])),
        _figure(mean),
        "-" if recorded is None else f"{recorded['episodes']:,}",
        _size(sum(listing["bytes"] for listing in manifest["files"].values())),
    )


def _size(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= _KILO and len(units) > 1:
        size, units = size / _KILO, units[1:]
    return f"{size:,.0f} {units[0]}" if size >= _KILO / 10 else f"{size:.3g} {units[0]}"


# --- show -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Contents:
    """A set as it stands on disk, without its environment.

    Attributes:
        path: its folder.
        manifest: its manifest.
        requests: the number of lines of its transcript.
        steps: environment steps in the recorded episodes; None where there are none.
    """

    path: Path
    manifest: Mapping[str, Any]
    requests: int
    steps: int | None

    @property
    def tokens_per_thousand_steps(self) -> float | None:
        """Tokens read and written for a thousand recorded environment steps."""
        usage = self.manifest["usage"]
        if usage is None or not self.steps:
            return None
        return 1000 * (usage["prompt_tokens"] + usage["completion_tokens"]) / self.steps


def read_contents(folder: Path) -> Contents:
    """Read a set and check its files and its transcript, without building its environment.

    Raises:
        DemonstrationError: it is damaged or altered.
    """
    manifest = read_manifest(folder)
    files = read_files(folder, manifest)
    requests = check_transcript(folder, manifest, files[TRANSCRIPT])
    steps = _count_steps(folder / ARRAYS, files[ARRAYS]) if ARRAYS in files else None
    return Contents(folder, manifest, requests, steps)


def _count_steps(path: Path, content: bytes) -> int:
    active = parse_arrays(path, content).get("active")
    if active is None or active.dtype != np.bool_ or active.ndim != _ACTIVE_AXES:
        raise DemonstrationError(f"{path} does not hold episodes. Restore the file.")
    return int(active.any(axis=-1).sum())


def as_json(contents: Contents) -> dict[str, Any]:
    """What `show --json` prints: the manifest, and what follows from it."""
    return {
        "path": str(contents.path),
        "requests": contents.requests,
        "demonstration_steps": contents.steps,
        "tokens_per_thousand_steps": contents.tokens_per_thousand_steps,
        "manifest": contents.manifest,
    }


def show_set(contents: Contents) -> Iterator[str]:
    """A set in lines of text."""
    yield from _facts(contents)
    rounds = contents.manifest["rounds"]
    if rounds:
        yield from ("", "Rounds, with returns per agent:", "")
        yield from format_table(list(_ROUND_COLUMNS), [_round_row(r) for r in rounds], left=0)
        yield "plans: executable ones. valid: executable triples. control: the best of as many random valid plans."
    plans = contents.manifest["plans"]
    yield ""
    if not plans:
        yield "No plan: nothing that the model wrote could be executed."
    for index, plan in enumerate(plans):
        yield from _plan_lines(index, plan)


def _facts(contents: Contents) -> Iterator[str]:
    manifest = contents.manifest
    environment, prompt, recorded = manifest["environment"], manifest["prompt"], manifest["recorded"]
    fields = ", ".join(f"{printable(k)}={printable(repr(v))}" for k, v in environment["config"].items())
    yield printable(str(contents.path), 300)
    facts = {
        "environment": f"{printable(environment['name'], 200)}({fields})",
        "kind": manifest["kind"],
        "model": f"{printable(manifest['model'])}, asked through {printable(manifest['provider'])}",
        "prompt": "-" if prompt is None else f"{printable(prompt['name'])}, sha256 {printable(prompt['sha256'], 12)}",
        "created": f"{printable(manifest['created'])} by leed_jax {printable(manifest['leed_jax'])}",
        "settings": ", ".join(f"{printable(k)}={printable(str(v))}" for k, v in manifest["settings"].items()) or "-",
        "recorded": "-" if recorded is None else _recorded(recorded, contents.steps),
        "requests": f"{contents.requests} in the transcript",
        "usage": _usage(manifest["usage"], contents.tokens_per_thousand_steps),
        "random actions": f"{_figure(manifest['random_return_per_agent'])} per agent",
    }
    yield from (f"  {name:<15} {fact}" for name, fact in facts.items())


def _recorded(recorded: Mapping[str, Any], steps: int | None) -> str:
    return (
        f"{recorded['episodes']:,} episodes, {steps or 0:,} environment steps, up to {recorded['noise']:.0%} of the "
        f"actions disturbed, seed {recorded['seed']}"
    )


def _usage(usage: Mapping[str, Any] | None, rate: float | None) -> str:
    if usage is None:
        return "-"
    told = f"{usage['calls']:,} calls, {usage['prompt_tokens']:,} tokens read, {usage['completion_tokens']:,} written"
    told += f", cost {usage['cost']:g}"
    return told if rate is None else f"{told}; {rate:,.1f} tokens per thousand demonstration steps"


_ROUND_COLUMNS = {
    "round": "index",
    "replies": "replies",
    "plans": "executable",
    "valid": "validity",
    "mean": "mean_return",
    "best": "best_return",
    "so far": "best_so_far",
    "control": "control",
    "read": "prompt_tokens",
    "written": "completion_tokens",
}


def _round_row(figures: Mapping[str, Any]) -> list[str]:
    return [_round_cell(name, figures.get(name)) for name in _ROUND_COLUMNS.values()]


def _round_cell(name: str, value: Any) -> str:
    if name == "control":
        value = value.get("mean") if isinstance(value, dict) else None
    if not is_number(value):
        return "-"
    if name == "validity":
        return f"{value:.0%}"
    return str(value) if isinstance(value, int) else _figure(value)


def _plan_lines(index: int, plan: Mapping[str, Any]) -> Iterator[str]:
    where = f"round {plan['round']}, candidate {plan['candidate']}"
    where += "" if plan["episode"] is None else f", for initial state {plan['episode']}"
    each = plan["report_returns"]
    agents = "" if each is None else f" ({', '.join(map(_figure, each))})"
    again = "on fresh episodes" if plan["episode"] is None else "executed again"
    yield (
        f"Plan {index} ({where}): {_figure(plan['selection_return_per_agent'])} per agent where it was selected, "
        f"{_figure(plan['report_return_per_agent'])} {again}{agents}"
    )
    yield from (f"  [{', '.join(map(printable, triple))}]" for triple in plan["triples"])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

"""The content of sets, as text and as JSON. Every word of a manifest is escaped, as it may come from anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.demonstrations.format import (
    ARRAYS,
    MANIFEST,
    TRANSCRIPT,
    check_transcript,
    is_number,
    read_listed,
    read_manifest,
)
from leed_jax.demonstrations.loading import packaged_folder, parse_arrays, recorded_sets
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import printable

_ACTIVE_AXES = 3
_KILO = 1000
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


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip())
    return lines


# --- list -------------------------------------------------------------------------------------------------------


def list_sets(folder: Path | None) -> Iterator[str]:
    """A table of the sets that come with leed_jax and of those below a folder, and below it the broken ones.

    Raises:
        DemonstrationError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise DemonstrationError(f"{printable(str(folder), 200)} is not a folder; name one that holds sets.")
    found = [(name, packaged_folder() / name) for name in recorded_sets()]
    below = sorted(folder.rglob(MANIFEST)) if folder is not None else []
    # Other software writes a manifest.json, too.
    found += [(str(path.parent), path.parent) for path in below if _has_files(path.parent)]
    rows, broken = [], []
    for name, path in found:
        try:
            rows.append(_row(name, read_manifest(path)))
        except DemonstrationError as error:
            broken.append(f"broken: {printable(str(error), 1000)}")
    headings = ("set", "environment", "model", "kind", "plans", "return", "episodes", "size")
    yield from format_table(headings, rows, left=4)
    yield from broken


def _has_files(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in (TRANSCRIPT, ARRAYS))
    except OSError:
        return False


def _row(name: str, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    returns = [plan["report_return_per_agent"] for plan in manifest["plans"]]
    # Plans for one initial state each count together.
    counted = returns[:1] if manifest["kind"] == "relational" else returns
    recorded = manifest["recorded"]
    return (
        printable(name, 200),
        printable(manifest["environment"]["name"].rpartition(":")[2]),
        printable(manifest["model"]),
        manifest["kind"],
        str(len(manifest["plans"])),
        _figure(None if not counted or None in counted else float(np.mean(counted))),
        "-" if recorded is None else f"{recorded['episodes']:,}",
        _size(sum(listing["bytes"] for listing in manifest["files"].values())),
    )


def _size(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= _KILO and len(units) > 1:
        size, units = size / _KILO, units[1:]
    return f"{size:,.0f} {units[0]}" if size >= _KILO / 10 else f"{size:.3g} {units[0]}"


# --- show -------------------------------------------------------------------------------------------------------


def read_contents(folder: Path) -> dict[str, Any]:
    """Read and check a set without building its environment: what `show --json` prints.

    Raises:
        DemonstrationError: it is damaged or altered.
    """
    manifest = read_manifest(folder)
    files = read_listed(folder, manifest)
    requests = check_transcript(folder, manifest, files[TRANSCRIPT])
    steps, rate, usage = None, None, manifest["usage"]
    if ARRAYS in files:
        active = parse_arrays(folder / ARRAYS, files[ARRAYS]).get("active")
        if active is None or active.dtype != np.bool_ or active.ndim != _ACTIVE_AXES:
            raise DemonstrationError(f"{folder / ARRAYS} does not hold episodes. Restore the file.")
        steps = int(active.any(axis=-1).sum())
        rate = 1000 * (usage["prompt_tokens"] + usage["completion_tokens"]) / steps if usage and steps else None
    return {
        "path": str(folder),
        "requests": requests,
        "demonstration_steps": steps,
        "tokens_per_thousand_steps": rate,
        "manifest": manifest,
    }


def show_set(contents: Mapping[str, Any]) -> Iterator[str]:
    """A set in lines of text."""
    yield printable(contents["path"], 300)
    yield from (f"  {name:<15} {fact}" for name, fact in _facts(contents).items())
    rounds = contents["manifest"]["rounds"]
    if rounds:
        rows = [[_round_cell(name, r.get(name)) for name in _ROUND_COLUMNS.values()] for r in rounds]
        yield from ("", "Rounds, with returns per agent:", "")
        yield from format_table(list(_ROUND_COLUMNS), rows, left=0)
        yield "plans: executable ones. valid: executable triples. control: the best of as many random valid plans."
    plans = contents["manifest"]["plans"]
    yield ""
    if not plans:
        yield "No plan: nothing that the model wrote could be executed."
    for index, plan in enumerate(plans):
        yield from _plan_lines(index, plan)


def _facts(contents: Mapping[str, Any]) -> dict[str, str]:
    manifest, rate = contents["manifest"], contents["tokens_per_thousand_steps"]
    environment, prompt, how, usage = (manifest[name] for name in ("environment", "prompt", "recorded", "usage"))
    fields = ", ".join(f"{printable(k)}={printable(repr(v))}" for k, v in environment["config"].items())
    recorded = used = "-"
    if how is not None:
        recorded = (
            f"{how['episodes']:,} episodes, {contents['demonstration_steps'] or 0:,} environment steps, up to "
            f"{how['noise']:.0%} of the actions disturbed, seed {how['seed']}"
        )
    if usage is not None:
        used = (
            f"{usage['calls']:,} calls, {usage['prompt_tokens']:,} tokens read, {usage['completion_tokens']:,} "
            f"written, cost {usage['cost']:g}"
        )
        used += "" if rate is None else f"; {rate:,.1f} tokens per thousand demonstration steps"
    return {
        "environment": f"{printable(environment['name'], 200)}({fields})",
        "kind": manifest["kind"],
        "model": f"{printable(manifest['model'])}, asked through {printable(manifest['provider'])}",
        "prompt": "-" if prompt is None else f"{printable(prompt['name'])}, sha256 {printable(prompt['sha256'], 12)}",
        "created": f"{printable(manifest['created'])} by leed_jax {printable(manifest['leed_jax'])}",
        "settings": ", ".join(f"{printable(k)}={printable(str(v))}" for k, v in manifest["settings"].items()) or "-",
        "recorded": recorded,
        "requests": f"{contents['requests']} in the transcript",
        "usage": used,
        "random actions": f"{_figure(manifest['random_return_per_agent'])} per agent",
    }


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

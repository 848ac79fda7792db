"""The record of a tuning study: every setting with its score, and the best one of each variant."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from leed_jax.files import write_whole, writing
from leed_jax.studies.page import escaped, machine_lines
from leed_jax.studies.progress import say
from leed_jax.studies.request import Request
from leed_jax.studies.schema import flatten, written, written_value
from leed_jax.studies.search import Search

RECORD, PAGE = "tuning.json", "tuning.md"

Row = Mapping[str, Any]


def write_record(
    request: Request, searches: Mapping[str, Search], rows: Mapping[str, Sequence[Row]], console: Console
) -> None:
    """Write `tuning.json` and `tuning.md`, and print the winners.

    Args:
        request: the study.
        searches: what was tried of each variant.
        rows: a row of `tried.jsonl` for each setting, by variant.
        console: where to print.

    Raises:
        RunDirectoryError: one of them cannot be written.
    """
    record = _record(request, searches, rows)
    for name, text in ((RECORD, json.dumps(record, indent=2, allow_nan=False) + "\n"), (PAGE, _page(record))):
        with writing(request.out / name):
            write_whole(request.out / name, text.encode())
    for label, variant in record["variants"].items():
        say(console, f"{label}: {_shown(variant['score'])} with {_chosen(variant)}")
    say(console, f"Written to {request.out / PAGE} and {request.out / RECORD}.")


def best(rows: Sequence[Row]) -> Row:
    """The row with the highest score; of equals the first; one whose score is not finite comes last."""
    return max(rows, key=lambda row: -math.inf if row["score"] is None else row["score"])


def _record(request: Request, searches: Mapping[str, Search], rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    file = request.file
    first = next(iter(rows.values()))[0]
    return {
        "title": file.title,
        "question": file.description.strip(),
        "command": request.command,
        "experiment": file.experiment,
        "budget": {
            "settings": file.budget,
            "seeds": first["seeds"],
            "total_steps": first["config"]["total_steps"],
            "evaluation_episodes": first["config"]["evaluation"]["episodes"],
        },
        "settings": " ".join(_common(request)),
        "sampling_seed": file.sampling_seed,
        "score": "interquartile mean over seeds of the greedy return per agent after training",
        "machine": machine_lines([(row["device"], row["versions"]) for group in rows.values() for row in group]),
        "variants": {label: _of_variant(searches[label], group) for label, group in rows.items()},
    }


def _common(request: Request) -> list[str]:
    """What all runs of the study have in common, as one would type it."""
    common = {key: written_value(value) for key, value in flatten(request.file.settings, "settings").items()}
    experiment = [f"experiment={request.file.experiment}"] if request.file.experiment else []
    return [*experiment, *(f"{key}={value}" for key, value in {**common, **request.overrides}.items())]


def _of_variant(search: Search, rows: Sequence[Row]) -> dict[str, Any]:
    winner = best(rows)
    chosen = {**search.settings, **winner["changes"]}
    return {
        "winner": winner["number"],
        "score": winner["score"],
        "winning_settings": " ".join(written(key, value) for key, value in chosen.items()),
        "settings": dict(search.settings),
        "ranges": {key: {item.scale: list(item.values)} for key, item in search.ranges.items()},
        "tried": [
            {key: row[key] for key in ("number", "changes", "score", "returns", "env_steps", "seconds")} for row in rows
        ],
    }


def _page(record: Mapping[str, Any]) -> str:
    budget = record["budget"]
    seeds = ", ".join(str(seed) for seed in budget["seeds"])
    lines = [f"# {record['title']}", "", *([record["question"], ""] if record["question"] else [])]
    lines += ["```sh", record["command"], "```", ""]
    lines += [
        f"Every variant had {budget['settings']} settings of {budget['total_steps']:,} environment steps, with the "
        f"seeds {seeds}. The score is the {record['score']}, over {budget['evaluation_episodes']:,} fresh episodes. "
        "Results are to be reported on other seeds.",
        "",
        f"All had `{record['settings']}` in common.",
        "",
        *record["machine"],
        "",
        "| variant | best score | settings |",
        "|---|---|---|",
    ]
    for label, variant in record["variants"].items():
        lines.append(f"| {escaped(label)} | {_shown(variant['score'])} | {_chosen(variant)} |")
    for label, variant in record["variants"].items():
        lines += ["", f"## {label}", "", *_table(variant)]
    return "\n".join(lines) + "\n"


def _table(variant: Mapping[str, Any]) -> list[str]:
    """All settings of a variant, the best one first."""
    tried = variant["tried"]
    keys = list(dict.fromkeys(key for row in tried for key in row["changes"]))
    lines = [f"| {' | '.join(['score', 'seeds', *keys])} |", "|---" * (len(keys) + 2) + "|"]
    for row in sorted(tried, key=lambda row: math.inf if row["score"] is None else -row["score"]):
        values = [written_value(row["changes"][key]) if key in row["changes"] else "" for key in keys]
        seeds = ", ".join(_shown(value) for value in row["returns"])
        lines.append(f"| {' | '.join([_shown(row['score']), seeds, *map(escaped, values)])} |")
    drawn = [f"`{key}` {_range(item)}" for key, item in variant["ranges"].items()]
    return [*lines, "", f"Drawn from: {'; '.join(drawn)}."] if drawn else lines


def _chosen(variant: Mapping[str, Any]) -> str:
    chosen = variant["winning_settings"]
    return f"`{chosen}`" if chosen else "no further setting"


def _range(described: Mapping[str, Sequence[Any]]) -> str:
    ((scale, values),) = described.items()
    texts = [written_value(value) for value in values]
    return f"one of {', '.join(texts)}" if scale == "choices" else f"{' to '.join(texts)} ({scale})"


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"

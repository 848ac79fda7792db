"""A generation written down: manifest, transcript, arrays, a table and a plot."""

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from leed_jax.config import Config
from leed_jax.demonstrations import MANIFEST, demonstration_key, execute_episodes, save_demonstrations
from leed_jax.errors import DemonstrationError, RunDirectoryError
from leed_jax.generate.candidates import Candidate
from leed_jax.generate.loop import Outcome
from leed_jax.generate.prompt import PROMPT_VERSION
from leed_jax.instructions import InstructedEnvironment, stack_plans
from leed_jax.llm import ChatRequest
from leed_jax.version import __version__

PLOT = "rounds.png"
JOURNAL = "replies.jsonl"


def output_folder(config: Config) -> Path:
    """Where the set goes: `generate.out`, or `demos/ENVIRONMENT/MODEL` below the working directory.

    Raises:
        RunDirectoryError: a finished set is there already.
    """
    module = str(config.env.get("name", "")).partition(":")[0].rpartition(".")[2]
    # A model's name may be a path or hold one; only harmless characters become part of a folder's name.
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", config.llm.model).strip("-.") or "model"
    folder = Path(config.generate.out).expanduser() if config.generate.out else Path("demos") / module / model
    if (folder / MANIFEST).exists():
        raise RunDirectoryError(f"{folder} holds a finished demonstration set; choose another one with generate.out=.")
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder} is not a folder; choose another one with generate.out=.")
    return folder


def write_set(folder: Path, config: Config, environment: InstructedEnvironment, outcome: Outcome) -> None:
    """Write a finished generation as a demonstration set.

    Raises:
        DemonstrationError: no reply was executable, so that there is nothing to demonstrate.
    """
    best = outcome.best
    if best is None or best.plan is None:
        problem = next((p for c in outcome.candidates for p in c.problems), "there was none")
        raise DemonstrationError(
            f"None of the {len(outcome.candidates)} replies of {config.llm.model} could be executed (the first: "
            f"{problem}) The replies are kept in {folder / JOURNAL}; try a larger model, more rounds, or a lower "
            f"llm.temperature."
        )
    plans = stack_plans([best.plan])
    recorded = execute_episodes(
        environment,
        plans,
        demonstration_key(config.demonstrations.seed),
        config.generate.recorded_episodes,
        config.demonstrations.noise,
    )
    transcript = "".join(
        json.dumps(_transcript_line(request, candidate), ensure_ascii=True, allow_nan=False) + "\n"
        for request, candidate in zip(outcome.requests, outcome.candidates, strict=True)
    )
    target = getattr(environment, "environment", environment)
    save_demonstrations(folder, _manifest(config, outcome, best), target, transcript.encode(), recorded)


def _manifest(config: Config, outcome: Outcome, best: Candidate) -> dict[str, Any]:
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "leed_jax": __version__,
        "model": config.llm.model,
        "prompt": PROMPT_VERSION,
        "settings": {
            "seed": config.seed,
            "temperature": config.llm.temperature,
            "max_tokens": config.llm.max_tokens,
            "response_format": config.llm.response_format,
            **{k: v for k, v in dataclasses.asdict(config.generate).items() if k != "out"},
        },
        "max_instructions": config.generate.max_instructions,
        "plans": [
            {
                "triples": [list(triple) for triple in best.triples],
                "round": best.round,
                "candidate": best.index,
                "selection_return_per_agent": best.score,
                "report_return_per_agent": outcome.best_report_return,
            }
        ],
        "random_return_per_agent": outcome.random_return,
        "rounds": [dataclasses.asdict(r) for r in outcome.rounds],
        "recorded": {
            "episodes": config.generate.recorded_episodes,
            "noise": config.demonstrations.noise,
            "seed": config.demonstrations.seed,
        },
    }


def _transcript_line(request: ChatRequest, candidate: Candidate) -> dict[str, Any]:
    return {
        "round": candidate.round,
        "candidate": candidate.index,
        "request": request.to_dict(),
        "reply": None if candidate.reply is None else candidate.reply.to_dict(),
        "validity": candidate.validity,
        "problems": list(candidate.problems),
        "triples": [list(triple) for triple in candidate.triples],
        "return_per_agent": candidate.score,
    }


def print_table(console: Console, outcome: Outcome) -> None:
    """Print a row per round, with the control beside the model."""
    table = Table(title="Plans by round, with their returns per agent", title_justify="left")
    headings = ("round", "replies", "plans", "valid", "mean", "best", "so far", "control")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for r in outcome.rounds:
        returns = (r.mean_return, r.best_return, r.best_so_far, r.control.mean)
        counts = (str(r.index + 1), str(r.replies), str(r.executable), f"{r.validity:.0%}")
        table.add_row(*counts, *map(_figure, returns))
    console.print(table)
    last = outcome.rounds[-1].control
    console.print(
        f"plans: replies that could be executed. valid: executable triples. control: what the best of as many random "
        f"valid plans comes to, on average; after the last round 95 % of draws lie between {last.low:.2f} and "
        f"{last.high:.2f}."
    )
    tokens = sum(r.prompt_tokens for r in outcome.rounds), sum(r.completion_tokens for r in outcome.rounds)
    console.print(
        f"Random actions: {outcome.random_return:.2f}. "
        f"Best plan on fresh episodes: {_figure(outcome.best_report_return)}. "
        f"Tokens: {tokens[0]} read, {tokens[1]} written."
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_rounds(path: Path, outcome: Outcome, model: str) -> None:
    """Plot validity and return per round, with the control and random actions."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import, and needed once, at the end

    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    rounds = [r.index + 1 for r in outcome.rounds]
    left.plot(rounds, [100 * r.validity for r in outcome.rounds], "o-", color="C0")
    left.set(xlabel="round", ylabel="executable triples (%)", ylim=(0, 105), xticks=rounds)
    scored = [c for c in outcome.candidates if c.score is not None]
    right.plot([c.round + 1 for c in scored], [c.score for c in scored], ".", color="C0", alpha=0.5, label="each plan")
    found = [r for r in outcome.rounds if r.best_so_far is not None]
    right.plot([r.index + 1 for r in found], [r.best_so_far for r in found], "o-", color="C0", label=f"best of {model}")
    right.plot(
        rounds, [r.control.mean for r in outcome.rounds], "s--", color="C1", label="best of as many random valid"
    )
    low, high = [r.control.low for r in outcome.rounds], [r.control.high for r in outcome.rounds]
    right.fill_between(rounds, low, high, color="C1", alpha=0.2, linewidth=0)
    right.axhline(outcome.random_return, color="0.5", linestyle=":", label="random actions")
    right.set(xlabel="round", ylabel="return per agent", xticks=rounds)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)

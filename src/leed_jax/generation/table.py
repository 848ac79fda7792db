"""A generation for people: a table with a row per round, a summary in words, and a plot."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from leed_jax.config import Config
from leed_jax.generation.loop import Outcome, Round
from leed_jax.instructions import InstructedEnvironment, written
from leed_jax.llm import Spending
from leed_jax.report.progress import short

_THOUSAND = 1000


def print_table(console: Console, outcome: Outcome) -> None:
    """Print a row per round, with the control beside the model."""
    table = Table(
        title="Plans by round, with their returns per agent",
        title_justify="left",
        box=SIMPLE_HEAD,
        # With these, returns of thousands fit into 80 columns.
        padding=(0, 0, 0, 1),
        show_edge=False,
        pad_edge=False,
    )
    headings = ("round", "replies", "plans", "valid", "mean", "best", "so far", "control", "tokens")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for r in outcome.rounds:
        control = None if r.control is None else r.control.mean
        returns = (r.mean_return, r.best_return, r.best_so_far, control)
        counts = (str(r.index + 1), f"{r.replies}/{r.requests}", f"{r.executable}/{r.candidates}", f"{r.validity:.0%}")
        table.add_row(*counts, *map(_figure, returns), _count(r.prompt_tokens + r.completion_tokens))
    console.print(table)
    for line in _legend(outcome):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _legend(outcome: Outcome) -> list[str]:
    lines = ["plans: how many could be executed of those asked for. valid: executable triples."]
    if outcome.kind == "episodes":
        lines.append(
            "Each initial state keeps the plan that earned most in that very state; best and so far are means over "
            "the states, of which one without a plan counts as random actions. The control is selected in the same way."
        )
    return lines


def summary_lines(
    config: Config, environment: InstructedEnvironment, outcome: Outcome, spent: Spending, seconds: float
) -> list[str]:
    """What a generation found and what it cost, a sentence or two each.

    Args:
        config: what it was made with.
        environment: what it was made for.
        outcome: what came of it.
        spent: what was paid for it.
        seconds: how long it took.
    """
    lines = [outcome.stopped, f"Random actions: {outcome.random_return:.2f} per agent.", *_against_control(outcome)]
    report = outcome.report_return
    if report is not None:
        what = "Best plan on fresh episodes" if outcome.kind == "relational" else "Kept plans, executed again"
        agents = environment.vocabulary.agents
        each = ""
        if outcome.kind == "relational":
            shown = [
                f"{written(name)} {value:.2f}"
                for name, value in zip(agents, outcome.kept[0].report_returns, strict=True)
            ]
            each = f" ({', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''})"  # noqa: PLR2004 - one line
        lines.append(f"{what}: {report:.2f} per agent{each}. Kept: {len(outcome.kept)}.")
    lines += [*_cost(config, environment, outcome, spent, seconds), *_cut_off(config, outcome)]
    return lines


def _against_control(outcome: Outcome) -> list[str]:
    last = outcome.rounds[-1] if outcome.rounds else None
    if last is None or last.control is None:
        return []
    control = last.control
    told = (
        f"Control, the best of as many random valid plans (here {control.candidates}"
        f"{' for each initial state' if outcome.kind == 'episodes' else ''}): {control.mean:.2f} on average, and 95 % "
        f"of draws between {control.low:.2f} and {control.high:.2f}."
    )
    if last.best_so_far is None:
        return [f"{told} The model has nothing to set against it."]
    added = last.best_so_far - control.mean
    where = "above" if last.best_so_far > control.high else "below" if last.best_so_far < control.low else "within"
    return [f"{told} The model adds {added:+.2f} to it, which is {where} that range."]


def _cost(
    config: Config, environment: InstructedEnvironment, outcome: Outcome, spent: Spending, seconds: float
) -> list[str]:
    usage = spent.usage
    behind = outcome.usage
    priced = config.llm.prompt_price + config.llm.completion_price > 0
    cost = f", cost {spent.cost:.4g}" if priced else ""
    lines = [
        f"{spent.calls} calls, {usage.prompt_tokens} tokens read and {usage.completion_tokens} written{cost}, "
        f"{seconds:.0f} s."
    ]
    if behind != usage:
        lines.append(
            f"That is what was paid. The replies, wherever they came from, took {behind.prompt_tokens} tokens read and "
            f"{behind.completion_tokens} written."
        )
    steps = config.generate.recorded_episodes * environment.max_steps if outcome.kept else 0
    if steps and behind.total:
        lines.append(
            f"{behind.total / steps * _THOUSAND:.0f} tokens per thousand demonstration steps ({steps} steps of the "
            "environment recorded; executing the plans again gives more at no cost)."
        )
    return lines


def _cut_off(config: Config, outcome: Outcome) -> list[str]:
    cut = sum(a.reply is not None and a.reply.finish_reason == "length" for a in outcome.attempts)
    if not cut:
        return []
    return [f"{cut} replies were cut off at llm.max_tokens={config.llm.max_tokens}; raise it."]


def round_line(config: Config, r: Round) -> str:
    """A round in one line, for where there is no terminal."""
    return (
        f"round {r.index + 1}/{config.generate.rounds}: {r.executable} of {r.candidates} plans executable, "
        f"best so far {'none yet' if r.best_so_far is None else f'{r.best_so_far:.2f}'} per agent"
    )


def _count(tokens: int) -> str:
    return str(tokens) if tokens < 100 * _THOUSAND else short(tokens)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_rounds(path: Path, outcome: Outcome, model: str) -> None:
    """Plot validity and return per round, with the control and random actions.

    Args:
        path: the file to write.
        outcome: what to draw.
        model: the model's name, for the legend.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import, and needed once, at the end

    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    rounds = [r.index + 1 for r in outcome.rounds]
    left.plot(rounds, [100 * r.validity for r in outcome.rounds], "o-", color="C0")
    left.set(xlabel="round", ylabel="executable triples (%)", ylim=(0, 105))
    scored = [c for c in outcome.candidates if c.score is not None]
    each = {
        "color": "C0",
        "alpha": 0.5,
        "label": "each plan" + (" in its own state" if outcome.kind == "episodes" else ""),
    }
    right.plot([c.round + 1 for c in scored], [c.score for c in scored], ".", **each)
    found = [r for r in outcome.rounds if r.best_so_far is not None]
    # A name in dollars would be read as a formula.
    label = "best of " + model[:40].replace("$", r"\$")
    right.plot([r.index + 1 for r in found], [r.best_so_far for r in found], "o-", color="C0", label=label)
    controls = [(r.index + 1, r.control) for r in outcome.rounds if r.control is not None]
    if controls:
        at = [index for index, _ in controls]
        right.plot(at, [c.mean for _, c in controls], "s--", color="C1", label="best of as many random valid")
        low, high = [c.low for _, c in controls], [c.high for _, c in controls]
        right.fill_between(at, low, high, color="C1", alpha=0.2, linewidth=0)
    right.axhline(outcome.random_return, color="0.5", linestyle=":", label="random actions")
    right.set(xlabel="round", ylabel="return per agent")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)

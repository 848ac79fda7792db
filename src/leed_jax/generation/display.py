"""A generation on the screen: progress, a table with a row per round, a summary, and a plot."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from leed_jax.config import Settings
from leed_jax.errors import LLMError
from leed_jax.generation.loop import GenerationResult, Round
from leed_jax.generation.planner import requests_in_round
from leed_jax.instructions import InstructedEnvironment, written
from leed_jax.llm import Meter, Reply, Spending
from leed_jax.report.progress import LiveLine, clock, short

_MAX_AGENTS = 8


class GenerationProgress(LiveLine):
    """Counts replies, and the cost by a meter: one live line on a terminal, a line per round elsewhere."""

    def __init__(self, console: Console, config: Settings, meter: Meter) -> None:
        super().__init__(console)
        self._config, self._meter = config, meter
        self._total = requests_in_round(config.generate) * config.generate.rounds
        self._started = time.monotonic()
        self.done = 0
        self.failed = 0
        self.reused = 0

    def __enter__(self) -> "GenerationProgress":
        """Take over a line of the terminal, if there is one."""
        super().__enter__()
        self.show(self.line(), self.done, self._total)
        return self

    def reply(self, outcome: Reply | LLMError, reused: int = 0) -> None:
        """Count a reply or an error; `reused` of them came from a journal and say nothing about the time left."""
        self.done += 1
        self.reused = reused
        self.failed += isinstance(outcome, LLMError)
        self.show(self.line(), self.done, self._total)

    def round(self, r: Round) -> None:
        """Show a round's result on a line of its own."""
        best = "none yet" if r.best_so_far is None else f"{r.best_so_far:.2f}"
        self.note(
            f"round {r.index + 1}/{self._config.generate.rounds}: {r.executable} of {r.candidates} plans executable, "
            f"best so far {best} per agent"
        )
        if not self.live:
            self.note(f"  {self.line()}")

    def line(self) -> str:
        """Replies, calls, tokens, cost, and the time left if all rounds are needed."""
        spent, limits = self._meter.spent, self._meter.limits
        parts = [f"{self.done}/{self._total} replies"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if spent.calls:
            tokens = spent.usage.prompt_tokens + spent.usage.completion_tokens
            parts += [f"{spent.calls} calls", f"{short(tokens)} tokens"]
        if limits.prompt_price + limits.completion_price > 0:
            parts.append(f"cost {spent.cost:.4g}")
        if self.done > self.reused:
            each = (time.monotonic() - self._started) / (self.done - self.reused)
            parts.append(f"{clock(each * max(0, self._total - self.done))} left")
        return ", ".join(parts)


def print_table(console: Console, result: GenerationResult) -> None:
    """Print a row per round, the control included."""
    table = Table(
        title="Plans by round, with their returns per agent",
        title_justify="left",
        box=SIMPLE_HEAD,
        # So that returns of thousands fit into 80 columns.
        padding=(0, 0, 0, 1),
        show_edge=False,
        pad_edge=False,
    )
    for heading in ("round", "replies", "plans", "valid", "mean", "best", "so far", "control", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in result.rounds:
        returns = (r.mean_return, r.best_return, r.best_so_far, None if r.control is None else r.control.mean)
        counts = (str(r.index + 1), f"{r.replies}/{r.requests}", f"{r.executable}/{r.candidates}", f"{r.validity:.0%}")
        tokens = r.prompt_tokens + r.completion_tokens
        shown = str(tokens) if tokens < 100_000 else short(tokens)  # noqa: PLR2004 - what fits
        table.add_row(*counts, *("-" if value is None else f"{value:.2f}" for value in returns), shown)
    console.print(table)
    legend = "plans: how many could be executed of those asked for. valid: executable triples."
    if result.kind == "episodes":
        legend += (
            "\nEach initial state keeps the plan that earned most in that very state; best and so far are means over "
            "the states, of which one without a plan counts as random actions. The control is selected in the same way."
        )
    console.print(legend, soft_wrap=True, highlight=False, markup=False)


def summary_lines(
    config: Settings, environment: InstructedEnvironment, result: GenerationResult, spent: Spending, seconds: float
) -> Iterator[str]:
    """What a generation found and what it cost, a sentence or two each."""
    yield result.stopped
    yield f"Random actions: {result.random_return:.2f} per agent."
    yield from _against_control(result)
    if result.report_return is not None:
        what, each = "Kept plans, executed again", ""
        if result.kind == "relational":
            pairs = zip(environment.vocabulary.agents, result.kept[0].report_returns, strict=True)
            figures = [f"{written(name)} {value:.2f}" for name, value in pairs]
            more = ", ..." if len(figures) > _MAX_AGENTS else ""
            what, each = "Best plan on fresh episodes", f" ({', '.join(figures[:_MAX_AGENTS])}{more})"
        yield f"{what}: {result.report_return:.2f} per agent{each}. Kept: {len(result.kept)}."
    yield from _cost(config, environment, result, spent, seconds)
    cut = sum(a.reply is not None and a.reply.finish_reason == "length" for a in result.attempts)
    if cut:
        yield f"{cut} replies were cut off at llm.max_tokens={config.llm.max_tokens}; raise it."


def _against_control(result: GenerationResult) -> Iterator[str]:
    if not result.rounds or result.rounds[-1].control is None:
        return
    best, control = result.rounds[-1].best_so_far, result.rounds[-1].control
    line = (
        f"Control, the best of as many random valid plans (here {control.candidates}"
        f"{' for each initial state' if result.kind == 'episodes' else ''}): {control.mean:.2f} on average, and 95 % "
        f"of draws between {control.low:.2f} and {control.high:.2f}."
    )
    if best is None:
        yield f"{line} No plan of the model could be compared with it."
        return
    where = "above" if best > control.high else "below" if best < control.low else "within"
    yield f"{line} The model adds {best - control.mean:+.2f} to it, which is {where} that range."


def _cost(
    config: Settings, environment: InstructedEnvironment, result: GenerationResult, spent: Spending, seconds: float
) -> Iterator[str]:
    paid, total = spent.usage, result.usage
    cost = f", cost {spent.cost:.4g}" if config.llm.prompt_price + config.llm.completion_price > 0 else ""
    yield (
        f"{spent.calls} calls, {paid.prompt_tokens} tokens read and {paid.completion_tokens} written{cost}, "
        f"{seconds:.0f} s."
    )
    if total != paid:
        yield (
            f"That is what was paid. The replies, wherever they came from, took {total.prompt_tokens} tokens read and "
            f"{total.completion_tokens} written."
        )
    steps = config.generate.recorded_episodes * environment.max_steps if result.kept else 0
    if steps and total.total:
        yield (
            f"{1000 * total.total / steps:.0f} tokens per thousand demonstration steps ({steps} steps of the "
            "environment recorded; executing the plans again gives more at no cost)."
        )


def draw_rounds(path: Path, result: GenerationResult, model: str) -> None:
    """Write a plot of validity and return per round, with the control and random actions."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([r.index + 1 for r in result.rounds], [100 * r.validity for r in result.rounds], "o-", color="C0")
    left.set(xlabel="round", ylabel="executable triples (%)", ylim=(0, 105))
    scored = [c for c in result.candidates if c.score is not None]
    label = "each plan" + (" in its own state" if result.kind == "episodes" else "")
    right.plot([c.round + 1 for c in scored], [c.score for c in scored], ".", color="C0", alpha=0.5, label=label)
    best = [r for r in result.rounds if r.best_so_far is not None]
    # Text between dollars would be drawn as a formula.
    label = "best of " + model[:40].replace("$", r"\$")
    right.plot([r.index + 1 for r in best], [r.best_so_far for r in best], "o-", color="C0", label=label)
    controls = [(r.index + 1, r.control) for r in result.rounds if r.control is not None]
    if controls:
        at = [index for index, _ in controls]
        right.plot(at, [c.mean for _, c in controls], "s--", color="C1", label="best of as many random valid")
        low, high = [c.low for _, c in controls], [c.high for _, c in controls]
        right.fill_between(at, low, high, color="C1", alpha=0.2, linewidth=0)
    right.axhline(result.random_return, color="0.5", linestyle=":", label="random actions")
    right.set(xlabel="round", ylabel="return per agent")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)

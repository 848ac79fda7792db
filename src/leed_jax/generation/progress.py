"""What a generation is doing while it runs: one live line on a terminal, a line per round elsewhere."""

import time

from rich.console import Console

from leed_jax.config import Config
from leed_jax.errors import LLMError
from leed_jax.generation.kinds import requests_in_round
from leed_jax.generation.loop import Round
from leed_jax.generation.table import round_line
from leed_jax.llm import Meter, Reply
from leed_jax.report.progress import LiveLine, clock, short


class GenerationProgress(LiveLine):
    """Counts replies; a context manager, so that the terminal is always given back as it was.

    Args:
        console: where to show it.
        config: what is being done.
        meter: counts what it costs.
    """

    def __init__(self, console: Console, config: Config, meter: Meter) -> None:
        super().__init__(console)
        self._config, self._meter = config, meter
        self._per_round = requests_in_round(config.generate)
        self._total = self._per_round * config.generate.rounds
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
        """Count one outcome.

        Args:
            outcome: the outcome.
            reused: how many so far came from a journal, at once, and say nothing about the time that the rest takes.
        """
        self.done += 1
        self.reused = reused
        self.failed += isinstance(outcome, LLMError)
        self.show(self.line(), self.done, self._total)

    def round(self, r: Round) -> None:
        """Tell a round's result, on a line of its own."""
        self.note(round_line(self._config, r))
        if not self.live:
            self.note(f"  {self.line()}")

    def line(self) -> str:
        """Replies, calls, tokens, cost and the time that the rest will take if all rounds are needed."""
        spent = self._meter.spent
        limits = self._meter.limits
        tokens = spent.usage.prompt_tokens + spent.usage.completion_tokens
        parts = [f"{self.done}/{self._total} replies"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if spent.calls:
            parts += [f"{spent.calls} calls", f"{short(tokens)} tokens"]
        if limits.prompt_price + limits.completion_price > 0:
            parts.append(f"cost {spent.cost:.4g}")
        if self.done > self.reused:
            each = (time.monotonic() - self._started) / (self.done - self.reused)
            parts.append(f"{clock(each * max(0, self._total - self.done))} left")
        return ", ".join(parts)

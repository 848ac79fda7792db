"""How much of a study is done, and about how long the rest will take."""

from collections.abc import Iterable

from rich.console import Console

from leed_jax.config import Config
from leed_jax.report.progress import clock

Work = tuple[str, float]
"""A variant and the environment steps that it takes, of all seeds together."""


def work_of(variant: str, config: Config) -> Work:
    """What a run has to do."""
    return variant, float(config.total_steps) * config.num_seeds


class Pace:
    """Speeds of finished runs, from which the time of others is told.

    A variant goes at its own speed where it is known, and else at that of all together.
    """

    def __init__(self) -> None:
        self._done: dict[str, tuple[float, float]] = {}

    def add(self, work: Work, seconds: float) -> None:
        """Learn from a finished run.

        Args:
            work: what it did.
            seconds: how long it took.
        """
        steps, spent = self._done.get(work[0], (0.0, 0.0))
        self._done[work[0]] = (steps + work[1], spent + seconds)

    def seconds(self, rest: Iterable[Work]) -> float | None:
        """How long the rest will take, about; None if nothing is finished.

        Args:
            rest: what is left to do.
        """
        if not self._done:
            return None
        steps, spent = (sum(values) for values in zip(*self._done.values(), strict=True))
        total = 0.0
        for variant, amount in rest:
            own_steps, own_spent = self._done.get(variant, (steps, spent))
            total += amount * own_spent / own_steps
        return total

    def told(self, rest: Iterable[Work]) -> str:
        """The same in words."""
        seconds = self.seconds(rest)
        return "time left not known yet" if seconds is None else f"about {clock(seconds)} left"


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)

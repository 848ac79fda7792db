"""Progress of training: one live line on a terminal, plain lines elsewhere."""

import dataclasses
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

MIN_SECONDS = 1.0
MAX_SECONDS = 10.0
SHARE = 0.05
BAR_MIN_WIDTH = 100
THOUSAND = 1000.0
HOUR, MINUTE = 3600, 60


@dataclasses.dataclass(frozen=True)
class Status:
    """Where training stands.

    Attributes:
        steps: environment steps made by each seed.
        total: environment steps that each seed will have made.
        steps_per_s: environment steps a second, of all seeds together.
        seconds_left: how long the rest will take.
        return_per_agent: mean over agents and seeds; None where no episode has ended.
        expert_weight: mean over agents.
    """

    steps: int
    total: int
    steps_per_s: float
    seconds_left: float
    return_per_agent: float | None
    expert_weight: float

    def line(self) -> str:
        """The status in less than 80 columns."""
        shown = "none yet" if self.return_per_agent is None else f"{self.return_per_agent:.2f}"
        return (
            f"{short(self.steps)}/{short(self.total)} steps, {short(self.steps_per_s)} steps/s, "
            f"return/agent {shown}, expert {self.expert_weight:.2f}, {clock(self.seconds_left)} left"
        )


class ProgressReport:
    """Shows the status; a context manager, so that the terminal is always given back as it was.

    On a terminal that can move its cursor one line is kept up to date. Elsewhere plain lines are printed, at most one a
    second: when another 5 % are done, or after ten seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._progress: Progress | None = None
        self._printed_at, self._printed_steps = time.monotonic(), 0

    def __enter__(self) -> "ProgressReport":
        """Take over a line of the terminal, if there is one."""
        if self._live:
            bar = (BarColumn(bar_width=16),) if self._console.width >= BAR_MIN_WIDTH else ()
            self._progress = Progress(
                *bar, TextColumn("{task.description}"), console=self._console, refresh_per_second=4
            )
            self._task = self._progress.add_task("starting")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last status on the screen and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()

    def update(self, status: Status) -> None:
        """Show where training stands."""
        if self._progress is not None:
            self._progress.update(self._task, description=status.line(), completed=status.steps, total=status.total)
        elif self._due(status):
            self._printed_at, self._printed_steps = time.monotonic(), status.steps
            self.note(status.line())

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _due(self, status: Status) -> bool:
        if status.steps >= status.total:
            return True
        waited = time.monotonic() - self._printed_at
        grown = (status.steps - self._printed_steps) / status.total
        return waited >= MAX_SECONDS or (waited >= MIN_SECONDS and grown >= SHARE)


def short(number: float | int) -> str:
    """A number in three digits with k, M or G: 1234567 is 1.23M."""
    for suffix in ("", "k", "M"):
        if abs(number) < THOUSAND * (1 - 5e-4):
            return f"{number:.3g}{suffix}"
        number /= THOUSAND
    return f"{number:.3g}G"


def clock(seconds: float) -> str:
    """A duration as `1:23:45`, or `3:45` if it is less than an hour."""
    whole = round(seconds)
    hours, minutes, rest = whole // HOUR, whole % HOUR // MINUTE, whole % MINUTE
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

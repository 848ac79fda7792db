"""Training progress: one live line on a terminal, plain lines elsewhere."""

import dataclasses
import time

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
    """Training status.

    Attributes:
        steps: environment steps of each seed so far.
        total: environment steps of each seed at the end.
        steps_per_s: environment steps per second, all seeds together.
        seconds_left: estimated remaining time.
        return_per_agent: mean over agents and seeds; None if no episode has ended.
        expert_weight: mean over agents.
    """

    steps: int
    total: int
    steps_per_s: float
    seconds_left: float
    return_per_agent: float | None
    expert_weight: float

    def line(self) -> str:
        """The status in at most 80 columns."""
        shown = "none yet" if self.return_per_agent is None else f"{self.return_per_agent:.2f}"
        return (
            f"{short(self.steps)}/{short(self.total)} steps, {short(self.steps_per_s)} steps/s, "
            f"return/agent {shown}, expert {self.expert_weight:.2f}, {clock(self.seconds_left)} left"
        )


class LiveLine:
    """A line at the bottom of the terminal that is updated in place; a context manager that restores the terminal.

    Attributes:
        live: whether output is a terminal that can do this. If not, `show` prints nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.live = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
        self._progress: Progress | None = None

    def __enter__(self) -> "LiveLine":
        """Start the live line, if there is a terminal."""
        if self.live:
            bar = (BarColumn(bar_width=16),) if self._console.width >= BAR_MIN_WIDTH else ()
            self._progress = Progress(
                *bar, TextColumn("{task.description}"), console=self._console, refresh_per_second=4
            )
            self._task = self._progress.add_task("starting")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating the line, which stays on the screen."""
        if self._progress is not None:
            self._progress.stop()

    def show(self, text: str, completed: int, total: int) -> None:
        """Update the line.

        Args:
            text: the text next to the bar.
            completed: the amount done.
            total: the amount to do.
        """
        if self._progress is not None:
            self._progress.update(self._task, description=text, completed=completed, total=total)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class ProgressReport(LiveLine):
    """Shows the status of training.

    Without a terminal it prints lines: after another 5 %, but at most one per second, or after ten seconds.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._printed_at, self._printed_steps = time.monotonic(), 0

    def __enter__(self) -> "ProgressReport":
        """Start the live line, if there is a terminal."""
        super().__enter__()
        return self

    def update(self, status: Status) -> None:
        """Show a new status."""
        self.show(status.line(), status.steps, status.total)
        if not self.live and self._due(status):
            self._printed_at, self._printed_steps = time.monotonic(), status.steps
            self.note(status.line())

    def _due(self, status: Status) -> bool:
        if status.steps >= status.total:
            return True
        waited = time.monotonic() - self._printed_at
        grown = (status.steps - self._printed_steps) / status.total
        return waited >= MAX_SECONDS or (waited >= MIN_SECONDS and grown >= SHARE)


def short(number: float | int) -> str:
    """A number with three digits and k, M or G: 1234567 is 1.23M."""
    for suffix in ("", "k", "M"):
        if abs(number) < THOUSAND * (1 - 5e-4):
            return f"{number:.3g}{suffix}"
        number /= THOUSAND
    return f"{number:.3g}G"


def clock(seconds: float) -> str:
    """A duration as `1:23:45`, or `3:45` below an hour."""
    whole = round(seconds)
    hours, minutes, rest = whole // HOUR, whole % HOUR // MINUTE, whole % MINUTE
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Studies of kind=compare: every variant at every point on every seed, then tables and pictures."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from leed_jax.errors import LeedError
from leed_jax.evaluation import Comparison, compare, table
from leed_jax.evaluation.reading import read_summary
from leed_jax.files import writing
from leed_jax.report.directory import check_place
from leed_jax.studies.figure import draw_points
from leed_jax.studies.page import Section, write_page
from leed_jax.studies.plan import PlannedRun, check_recorded, clear_debris, has_begun, has_finished, plan_runs
from leed_jax.studies.progress import Pace, say, work_of
from leed_jax.studies.request import Request
from leed_jax.training.runner import RunResult, resume_run, start_run

SUMMARY_PICTURE = "points.png"

Comparer = Callable[..., Comparison]


def run_comparison(request: Request, console: Console, comparer: Comparer = compare) -> int:
    """Train what has not been trained, compare all of it, and write it down.

    Args:
        request: a study of kind=compare.
        console: where progress and tables are printed.
        comparer: `leed_jax.evaluation.compare`, or what is to be called in its place.

    Returns:
        The exit status: 0, or 130 or 143 if a signal stopped a run.

    Raises:
        LeedError: what was asked for cannot be done.
    """
    planned = plan_runs(request)
    check_place(request.out)
    for run in planned:
        check_recorded(run)
    stopped_by = _train_all(planned, console)
    if stopped_by is not None:
        say(console, f"The study goes on when it is asked for again:\n  {request.command}")
        return 128 + stopped_by
    _report(request, planned, console, comparer)
    return 0


def _train_all(planned: Sequence[PlannedRun], console: Console) -> int | None:
    """Train what has not finished; the signal that stopped it, if one did."""
    pace = Pace()
    finished = [run for run in planned if has_finished(run)]
    for run in finished:
        pace.add(work_of(run.variant, run.config), _recorded_seconds(run))
    waiting = [run for run in planned if run not in finished]
    say(console, f"{len(planned)} runs, {len(finished)} of them finished already.")
    for index, run in enumerate(waiting):
        rest = [work_of(other.variant, other.config) for other in waiting[index:]]
        place = f"Run {len(finished) + index + 1} of {len(planned)}"
        say(console, f"\n{place}: {run.label}; {pace.told(rest)}.")
        started, begun = time.monotonic(), has_begun(run)
        outcome = _train(run, console)
        if outcome.stopped_by is not None:
            return outcome.stopped_by
        # Of a run that was gone on with, this process has seen a part alone.
        seconds = _recorded_seconds(run) if begun else time.monotonic() - started
        pace.add(work_of(run.variant, run.config), seconds)
    return None


def _train(run: PlannedRun, console: Console) -> RunResult:
    try:
        if has_begun(run):
            return resume_run(run.path, console)
        clear_debris(run.path)
        return start_run(run.config, console)
    except LeedError as error:
        raise type(error)(f"{run.label}: {error}") from None


def _recorded_seconds(run: PlannedRun) -> float:
    summary = read_summary(run.path)
    return float(summary["wall_s"]) + float(summary["compile_s"])


def _report(request: Request, planned: Sequence[PlannedRun], console: Console, comparer: Comparer) -> None:
    """Compare the variants at each point, and write the page of results."""
    sections = []
    for point in request.points:
        runs = [run for run in planned if run.point == point.name]
        groups = {label: [run.path for run in runs if run.variant == label] for label in request.variants}
        title = f"{request.file.title}, {point.name}" if point.name else request.file.title
        chosen: dict[str, Any] = {"threshold": request.file.threshold, "reference": request.file.reference}
        sections.append(Section(point, comparer(groups, request.out / point.name, title=title, **chosen)))
        say(console, f"\n{table(sections[-1].comparison)}")
    picture = None
    if request.file.points.values:
        picture = SUMMARY_PICTURE
        label = request.file.points.label or request.file.points.key
        found = [(section.point.value, section.comparison) for section in sections]
        with writing(request.out / picture):
            draw_points(request.out / picture, label, found)
    page = write_page(request, sections, [read_summary(run.path) for run in planned], picture)
    say(console, f"Results: {page}")

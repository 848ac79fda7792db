"""The page of results of a study: what was asked, how, on what machine, and what came of it."""

import dataclasses
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leed_jax.evaluation import PICTURE, Comparison, table
from leed_jax.files import write_whole, writing
from leed_jax.studies.request import Point, Request
from leed_jax.studies.schema import shown_value

PAGE = "README.md"


@dataclasses.dataclass(frozen=True)
class Section:
    """What was found at one point.

    Attributes:
        point: the point.
        comparison: of all variants there.
    """

    point: Point
    comparison: Comparison


def write_page(
    request: Request, sections: Sequence[Section], summaries: Sequence[Mapping[str, Any]], picture: str | None
) -> Path:
    """Write the page of a study of kind=compare.

    Args:
        request: the study.
        sections: a section for each point.
        summaries: of all runs, for the devices and versions.
        picture: the summary over points, beside the page; None where there is none.

    Returns:
        The page.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    lines = [f"# {request.file.title}", ""]
    if request.file.description.strip():
        lines += [request.file.description.strip(), ""]
    lines += ["```sh", request.command, "```", "", *_how(request), ""]
    lines += [*machine_lines([(summary["device"], summary["versions"]) for summary in summaries]), ""]
    if picture is not None:
        lines += [f"![{escaped(request.file.title)}]({picture})", ""]
    for section in sections:
        lines += _section(request, section)
    path = request.out / PAGE
    with writing(path):
        write_whole(path, ("\n".join(lines).rstrip() + "\n").encode())
    return path


def _section(request: Request, section: Section) -> list[str]:
    name = section.point.name
    key = request.file.points.label or request.file.points.key
    heading = [f"## {key} = {shown_value(section.point.value)}", ""] if name else []
    alone = dataclasses.replace(section.comparison, title="")
    picture = f"{name}/{PICTURE}" if name else PICTURE
    return [*heading, table(alone), f"![Learning curves{f', {name}' if name else ''}]({picture})", ""]


def _how(request: Request) -> list[str]:
    """Seeds, and what the command line changed."""
    seeds, first = request.file.seeds, request.file.seeds.first or 0
    last = first + seeds.count - 1
    which = f"seed {first}" if seeds.count == 1 else f"seeds {first} to {last}"
    side_by_side = min(request.file.seeds_per_run or seeds.count, seeds.count)
    text = [f"Experiment {request.file.experiment or '-'}, {which}, up to {side_by_side} of them side by side."]
    if request.overrides:
        changes = " ".join(f"{key}={value}" for key, value in request.overrides.items())
        text.append(f"Changed on the command line, for every run: `{changes}`.")
    if request.partial:
        points = [point.name for point in request.points if point.name]
        text.append(f"A part of the study alone: {', '.join([*request.variants, *points])}.")
    return [" ".join(text)]


def machine_lines(made_on: Iterable[tuple[Mapping[str, Any], Mapping[str, str]]]) -> list[str]:
    """On what results were computed, and with what.

    Args:
        made_on: device and versions of each run, as in its summary.
    """
    devices: dict[str, None] = {}
    versions: dict[str, None] = {}
    for device, version in made_on:
        devices[f"{device.get('count', 1)} x {device.get('kind', '?')} ({device.get('platform', '?')})"] = None
        versions[", ".join(f"{name} {number}" for name, number in version.items())] = None
    return [
        f"Computed on {'; '.join(devices)}, with {'; '.join(versions)}. This page was written on {platform.system()} "
        f"{platform.machine()} with {os.cpu_count()} CPU cores, Python {platform.python_version()}."
    ]


def escaped(text: Any) -> str:
    """Text that cannot break a table."""
    return " ".join(str(text).split()).replace("|", "\\|")

"""`python -m leed_jax.compare RUN...`: finished runs side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from leed_jax.cli.common import exit_on_error
from leed_jax.errors import ConfigurationError
from leed_jax.evaluation import JSON, PICTURE, TABLE, Run, compare_runs, group, read_run, table, write_comparison

ABOUT = """
Compare finished runs: final returns, steps and seconds to a threshold, and the probability that one is better than
another, with 95 % bootstrap intervals over seeds. The table is printed.
"""

EXAMPLES = f"""
Runs that differ in nothing but their seeds are one variant. They are recognised by their settings; or say so yourself,
by LABEL=RUN,RUN or by --labels with the same label for each. A seed that is there twice is an error, and so are runs
of different environments or evaluations.

examples:
  python -m leed_jax.compare runs/ippo runs/leed --out runs/comparison
  python -m leed_jax.compare runs/ippo runs/leed-seed0 runs/leed-seed5 --reference ippo --threshold -11
  python -m leed_jax.compare baseline=runs/ippo ours=runs/leed-seed0,runs/leed-seed5
  python -m leed_jax.compare runs/a runs/b runs/c --labels baseline ours ours

--out writes {TABLE}, {PICTURE} and {JSON}, over those of an earlier comparison.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the runs of a command line.

    Args:
        arguments: the command line; that of the process if None.

    Returns:
        The exit status: 0, 2 after an error, 141 if nobody reads on.
    """
    parsed = _parser().parse_args(arguments)
    return exit_on_error(lambda: _compare(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leed_jax.compare",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a finished run's directory, or LABEL=RUN,RUN...")
    add("--out", type=Path, metavar="DIR", help="write table, learning curves and numbers to this folder")
    add(
        "--threshold",
        type=float,
        metavar="X",
        help="return per agent to reach; default: the level that the reference ends at",
    )
    add("--reference", metavar="LABEL", help="the variant to compare with; default: the first")
    add("--labels", nargs="+", metavar="LABEL", help="a label for each RUN, after them; equal labels are pooled")
    add("--title", default="", metavar="TEXT", help="a heading")
    return parser


def _compare(arguments: argparse.Namespace) -> int:
    groups = _group(arguments.runs, arguments.labels)
    chosen = {name: getattr(arguments, name) for name in ("threshold", "reference", "title")}
    comparison = compare_runs(groups, **chosen)
    if arguments.out is not None:
        write_comparison(comparison, arguments.out)
    print(table(comparison), end="")
    if arguments.out is not None:
        print(f"\n{arguments.out}: {TABLE}, {PICTURE}, {JSON}")
    return 0


def _group(words: Sequence[str], labels: Sequence[str] | None) -> dict[str, list[Run]]:
    """The runs of each variant, in the order of the command line."""
    named = [_named(word) for word in words]
    if labels is not None:
        if len(labels) != len(words) or any(label is not None for label, _ in named):
            raise ConfigurationError(
                f"--labels gives {len(labels)} labels to {len(words)} runs; give one to each RUN, and write no RUN as "
                "LABEL=RUN."
            )
        named = [(label, paths) for label, (_, paths) in zip(labels, named, strict=True)]
    unnamed = [read_run(path) for label, paths in named if label is None for path in paths]
    found = {label: list(runs) for label, runs in group(unnamed).items()} if unnamed else {}
    _check_free(set(found), {label for label, _ in named if label is not None})
    home = {id(run): label for label, runs in found.items() for run in runs}
    left = iter(unnamed)
    groups: dict[str, list[Run]] = {}
    for label, paths in named:
        runs = [next(left)] if label is None else [read_run(path) for path in paths]
        groups.setdefault(home[id(runs[0])] if label is None else label, []).extend(runs)
    return groups


def _named(word: str) -> tuple[str | None, list[Path]]:
    """`LABEL=RUN,RUN` in its parts; whatever is a directory as it stands is one."""
    label, separator, rest = word.partition("=")
    if not separator or Path(word).is_dir():
        return None, [Path(word)]
    if not label.strip() or not all(rest.split(",")):
        raise ConfigurationError(f"{word}: write it as LABEL=RUN, or LABEL=RUN,RUN.")
    return label, [Path(rest)] if Path(rest).is_dir() else [Path(part) for part in rest.split(",")]


def _check_free(automatic: set[str], given: set[str]) -> None:
    taken = sorted(automatic & given)
    if taken:
        raise ConfigurationError(
            f"The label {taken[0]} is that of a run without one, too. Give every run a label, by LABEL=RUN."
        )

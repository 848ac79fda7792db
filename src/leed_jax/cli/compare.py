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
Runs that differ in their seeds alone are one variant. They are recognised by their settings; or name variants yourself,
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
        The exit status: 0, 2 after an error, 141 if the reader of the output has gone.
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
    default = "default: the level that the reference ends at"
    add("--threshold", type=float, metavar="X", help=f"return per agent to reach; {default}")
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
    named = [_split(word) for word in words]
    if labels is not None:
        if len(labels) != len(words) or any(label is not None for label, _ in named):
            raise ConfigurationError(
                f"--labels gives {len(labels)} labels to {len(words)} runs; give one to each RUN, and write no RUN as "
                "LABEL=RUN."
            )
        named = [(label, paths) for label, (_, paths) in zip(labels, named, strict=True)]
    runs = [(label, read_run(path)) for label, paths in named for path in paths]
    automatic = group([run for label, run in runs if label is None])
    taken = sorted(set(automatic) & {label for label, _ in runs})
    if taken:
        raise ConfigurationError(
            f"The label {taken[0]} is that of a run without one, too. Give every run a label, by LABEL=RUN."
        )
    label_of = {id(run): label for label, members in automatic.items() for run in members}
    groups: dict[str, list[Run]] = {}
    for label, run in runs:
        groups.setdefault(label_of[id(run)] if label is None else label, []).append(run)
    return groups


def _split(word: str) -> tuple[str | None, list[Path]]:
    """Label and paths of `LABEL=RUN,RUN`; a word that is a directory as it stands has no label."""
    label, separator, rest = word.partition("=")
    if not separator or Path(word).is_dir():
        return None, [Path(word)]
    if not label.strip() or not all(rest.split(",")):
        raise ConfigurationError(f"{word}: write it as LABEL=RUN, or LABEL=RUN,RUN.")
    return label, [Path(rest)] if Path(rest).is_dir() else [Path(part) for part in rest.split(",")]

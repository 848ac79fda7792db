"""Comparison of finished runs: tables, learning curves and all numbers behind them.

    from leed_jax.evaluation import compare, table

    result = compare({"leed": [Path("runs/leed")], "ippo": [Path("runs/ippo")]}, Path("runs/comparison"))
    print(table(result))

`python -m leed_jax.compare` is its command line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from leed_jax.errors import ConfigurationError
from leed_jax.evaluation.figures import draw_comparison
from leed_jax.evaluation.results import Comparison, VariantResult, as_json, compare_runs
from leed_jax.evaluation.runs import Run, group, read_run
from leed_jax.evaluation.tables import table
from leed_jax.files import write_whole
from leed_jax.report.statistics import Estimate

__all__ = [
    "JSON",
    "PICTURE",
    "TABLE",
    "Comparison",
    "Estimate",
    "Run",
    "VariantResult",
    "as_json",
    "compare",
    "compare_runs",
    "group",
    "read_run",
    "table",
    "write_comparison",
]

TABLE, PICTURE, JSON = "comparison.md", "comparison.png", "comparison.json"


def compare(
    variants: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    threshold: float | None = None,
    reference: str | None = None,
    title: str = "",
) -> Comparison:
    """Compare variants, and write table, picture and numbers.

    Args:
        variants: finished run directories of each variant, by its label; those of one variant are pooled, and may
            differ in their seeds alone.
        out: the folder for `comparison.md`, `comparison.png` and `comparison.json`, which are overwritten.
        threshold: see `compare_runs`, as for the rest and for what is raised.
        reference: the label to compare with; None for the first.
        title: a heading.
    """
    runs = {label: [read_run(path) for path in paths] for label, paths in variants.items()}
    comparison = compare_runs(runs, threshold=threshold, reference=reference, title=title)
    write_comparison(comparison, out)
    return comparison


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write table, picture and numbers to a folder, which is made if it does not exist.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The picture is the likeliest to fail, and the table refers to it.
        draw_comparison(out / PICTURE, comparison)
        write_whole(out / TABLE, f"{table(comparison)}\n![Learning curves]({PICTURE})\n".encode())
        write_whole(out / JSON, (json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise ConfigurationError(f"out={out} cannot be written: {error.strerror}. Choose another folder.") from None

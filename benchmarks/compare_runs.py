"""Learning curves and final returns of several runs, side by side; returns to compare with are the first run's.

    python benchmarks/compare_runs.py runs/leed runs/ippo --out comparison.png

Each curve is the interquartile mean over seeds of the return per agent while training; the band spans all seeds.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from leed_jax.report.curve import curves, interquartile_mean
from leed_jax.report.metrics import read_metrics


def main() -> None:
    """Draw the picture and print a row per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args()
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    print("| algorithm | greedy return per agent: interquartile mean (lowest, highest) | steps | seconds per seed |")
    print("|---|---|---|---|")
    for index, run in enumerate(options.runs):
        summary = json.loads((run / "summary.json").read_text())
        steps, returns = curves(read_metrics(run))
        name, final = summary["algorithm"], np.array(summary["return_per_agent"], float)
        axes.plot(steps, interquartile_mean(returns), color=f"C{index}", label=f"{name}, {len(final)} seeds")
        low, high = np.nanmin(returns, axis=1), np.nanmax(returns, axis=1)
        axes.fill_between(steps, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
        spread = f"{interquartile_mean(final):.2f} ({final.min():.2f}, {final.max():.2f})"
        seconds = summary["wall_s"] / len(final)
        print(f"| `{name}` | {spread} | {summary['env_steps']:,} | {seconds:.0f} |")
    summary = json.loads((options.runs[0] / "summary.json").read_text())
    for key, label in (("instructions", "instructions alone"), ("random", "random actions")):
        value = summary[f"{key}_return_per_agent"]
        axes.axhline(value, color="0.4", linestyle="--" if key == "instructions" else ":", linewidth=1)
        axes.annotate(
            f"{label} {value:.1f}", (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    axes.set(xlabel="environment steps", ylabel="return per agent while training")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.legend(loc="center right")
    axes.grid(alpha=0.2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()

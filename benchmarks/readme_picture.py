"""Draw the picture at the top of the README from a comparison's numbers.

python benchmarks/readme_picture.py docs/results/sample_efficiency/comparison.json docs/sample_efficiency.png
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.ticker import EngFormatter

from leed_jax.evaluation.figures import COLOURS, GREY, draw_curve, label_ends, new_figure

SHOWN = {
    "leed": ("LEED", COLOURS[0]),
    "mappo": ("MAPPO", COLOURS[1]),
    "bc in its own states": ("imitation alone", COLOURS[2]),
    "ippo": ("independent PPO", COLOURS[7]),
}
LOWEST = -20.0
SIZE = 12.0


def main() -> None:
    """Draw the variants in `SHOWN`, under their names."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("comparison", type=Path, help="a comparison.json")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    arguments = parser.parse_args()
    found = json.loads(arguments.comparison.read_text(encoding="utf-8"))
    variants = {variant["label"]: variant for variant in found["variants"]}
    figure = new_figure(9.0, 4.6)
    axes, ends = figure.subplots(), []
    for label, (name, colour) in SHOWN.items():
        values = {key: np.array(variants[label]["curve"][key]) for key in ("steps", "iqm", "low", "high")}
        curve = SimpleNamespace(**values)
        draw_curve(axes, curve.steps, curve, color=colour)
        ends.append((float(curve.steps[-1]), float(curve.iqm[-1]), name, colour))
    level = variants["leed"]["instructions_return"]
    axes.axhline(level, color=GREY, linestyle=(0, (8, 4)), linewidth=1.2, zorder=1)
    last = max(end[0] for end in ends)
    ends.append((last, level, "the instructions", GREY))
    axes.set_xlim(0, last)
    axes.set_ylim(LOWEST, -8.0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=SIZE - 1)
    axes.set_xlabel("environment steps", size=SIZE)
    axes.set_ylabel(f"return per agent, {len(variants['leed']['seeds'])} seeds, 95 % band", size=SIZE)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    label_ends(figure, axes, ends, size=SIZE)
    figure.savefig(arguments.picture, dpi=100, format="png")


if __name__ == "__main__":
    main()

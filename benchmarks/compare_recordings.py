"""What models add over the control, in several recordings of demonstrations: a table and a picture.

    python benchmarks/compare_recordings.py demos/mpe_spread --out recordings.png

Finds every demonstration set below the folders. Returns are per agent, over the episodes that plans were selected on,
for the model and for the control alike; `fresh` is the best plan's return on other episodes.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from leed_jax.demonstrations import MANIFEST, read_manifest

Manifest = Mapping[str, Any]


def main() -> None:
    """Print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with demonstration sets below them")
    parser.add_argument("--out", type=Path, help="the PNG to write")
    options = parser.parse_args()
    paths = sorted(path.parent for folder in options.folders for path in folder.rglob(MANIFEST))
    groups: dict[tuple[str, str], list[Manifest]] = {}
    for path in paths:
        manifest = read_manifest(path)
        groups.setdefault((manifest["kind"], manifest["model"]), []).append(manifest)
    for kind in dict.fromkeys(kind for kind, _ in groups):
        chosen = {model: sets for (k, model), sets in groups.items() if k == kind}
        print(f"\n{kind}\n")
        print_table(chosen)
    if options.out is not None:
        draw(options.out, groups)


def print_table(groups: Mapping[str, Sequence[Manifest]]) -> None:
    """Print a row for each recording, in Markdown."""
    print(
        "| model | seed | valid triples by round | plans that ran | best so far by round | control | added "
        "| fresh | tokens read, written | tokens per 1,000 steps |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model, sets in groups.items():
        for manifest in sets:
            print(f"| {model} | {' | '.join(row(manifest))} |")
        gains = [gain for gain in map(added, sets) if gain is not None]
        if len(gains) > 1:
            print(f"| {model} | mean | | | | | **{np.mean(gains):+.2f}** | | | |")


def row(manifest: Manifest) -> list[str]:
    """One recording, but for its model."""
    rounds, usage = manifest["rounds"], manifest["usage"] or {}
    last, gain = rounds[-1], added(manifest)
    control = last["control"]
    tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return [
        str(manifest["settings"].get("seed", "")),
        ", ".join(f"{r['validity']:.0%}" for r in rounds),
        f"{sum(r['executable'] for r in rounds)} of {sum(r['candidates'] for r in rounds)}",
        ", ".join(figure(r["best_so_far"]) for r in rounds),
        f"{control['mean']:.2f} ({control['low']:.2f} to {control['high']:.2f})",
        "-" if gain is None else f"{gain:+.2f}",
        figure(fresh_return(manifest)),
        f"{tokens[0]:,}, {tokens[1]:,}",
        per_thousand_steps(manifest, sum(tokens)),
    ]


def added(manifest: Manifest) -> float | None:
    """What the model's best plan is above the control's mean, after the last round."""
    last = manifest["rounds"][-1]
    return None if last["best_so_far"] is None else last["best_so_far"] - last["control"]["mean"]


def fresh_return(manifest: Manifest) -> float | None:
    """The best plan's return on other episodes; the mean over the plans where each is for a state of its own."""
    plans = manifest["plans"] if manifest["kind"] == "episodes" else manifest["plans"][:1]
    returns = [plan["report_return_per_agent"] for plan in plans]
    return float(np.mean(returns)) if returns and None not in returns else None


def per_thousand_steps(manifest: Manifest, tokens: int) -> str:
    """Tokens per thousand environment steps of the recorded episodes."""
    recorded, steps = manifest["recorded"], manifest["environment"]["config"].get("max_steps")
    if not recorded or not steps:
        return "-"
    return f"{1000 * tokens / (recorded['episodes'] * steps):,.0f}"


def figure(value: float | None) -> str:
    """A return, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def draw(path: Path, groups: Mapping[tuple[str, str], Sequence[Manifest]]) -> None:
    """Draw the best plan so far by round, and the control, one panel for each kind of plan."""
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    picture = Figure(figsize=(5.5 * len(kinds), 4.2), layout="constrained")
    for column, kind in enumerate(kinds):
        axes = picture.add_subplot(1, len(kinds), column + 1)
        models = [(model, sets) for (k, model), sets in groups.items() if k == kind]
        for number, (model, sets) in enumerate(models):
            for i, manifest in enumerate(sets):
                rounds = [r for r in manifest["rounds"] if r["best_so_far"] is not None]
                places, values = [r["index"] + 1 for r in rounds], [r["best_so_far"] for r in rounds]
                axes.plot(places, values, "o-", color=f"C{number}", alpha=0.8, label=model if i == 0 else None)
        control = max((sets[0]["rounds"] for _, sets in models), key=len)
        places = [r["index"] + 1 for r in control]
        axes.plot(places, [r["control"]["mean"] for r in control], "ks--", label="control")
        low, high = [r["control"]["low"] for r in control], [r["control"]["high"] for r in control]
        axes.fill_between(places, low, high, color="0.8", alpha=0.6, linewidth=0)
        axes.set(xlabel="round", ylabel="best return per agent so far", xticks=places, title=f"{kind} plans")
        axes.legend(fontsize=8, frameon=False)
    picture.savefig(path, dpi=130)


if __name__ == "__main__":
    main()

"""What models add over the control, in several recordings of demonstrations: tables and a picture.

    python benchmarks/compare_recordings.py demos/mpe_spread --agents 3 --out recordings.png

Finds every recorded generation below the folders, those included in which nothing was executable: such a one counts as
what random actions earn. Returns are per agent, over the episodes that plans were selected on, for the model and for
the control alike; `fresh` is the best plan's return on other episodes. Seconds are those of all rounds, with the
execution of plans and of the control.
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
    parser.add_argument("--agents", type=int, metavar="N", help="only recordings for so many agents")
    parser.add_argument("--out", type=Path, help="the PNG to write")
    options = parser.parse_args()
    kinds = recordings(options.folders, options.agents)
    for kind, groups in kinds.items():
        print(f"\n{kind}\n")
        print("\n".join(table(groups)))
    if options.out is not None:
        draw(options.out, kinds)


def recordings(folders: Sequence[Path], agents: int | None = None) -> dict[str, dict[str, list[Manifest]]]:
    """Manifests by kind of plan and number of agents, and by who was asked, seeds in order.

    Sets that were made beside training, or written by a person, are left out.

    Args:
        folders: where to look.
        agents: only those for so many agents; None for all.
    """
    found = [read_manifest(path.parent) for folder in folders for path in sorted(folder.rglob(MANIFEST))]
    kinds: dict[tuple[str, int], dict[str, list[Manifest]]] = {}
    for manifest in sorted(found, key=lambda m: m["settings"].get("seed", 0)):
        team = team_of(manifest)
        if manifest["provider"] == "written" or (agents is not None and team != agents):
            continue
        if manifest["rounds"] and all(r["control"] is not None for r in manifest["rounds"]):
            constrained = ", constrained" if manifest["settings"].get("constrained") else ""
            groups = kinds.setdefault((manifest["kind"], team), {})
            groups.setdefault(manifest["model"] + constrained, []).append(manifest)
    ordered = sorted(kinds, key=lambda place: (place[0] != "relational", place[1]))
    return {f"{kind} plans, {team} agents": dict(sorted(kinds[kind, team].items())) for kind, team in ordered}


def team_of(manifest: Manifest) -> int:
    """The number of agents: the plans give each at least one instruction."""
    told = manifest["environment"]["config"].get("num_agents")
    return told if isinstance(told, int) else len({agent for p in manifest["plans"] for _, _, agent in p["triples"]})


def table(groups: Mapping[str, Sequence[Manifest]]) -> list[str]:
    """A row for each recording and one for each model, in Markdown.

    Args:
        groups: manifests by who was asked.
    """
    head = (
        "model",
        "seed",
        "valid",
        "ran",
        "best so far",
        "control",
        "added",
        "fresh",
        "tokens",
        "per 1,000 steps",
        "s",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for model, sets in groups.items():
        lines += [f"| {model} | {' | '.join(row(manifest))} |" for manifest in sets]
        gains = [added(manifest) for manifest in sets]
        failed = sum(best(manifest) is None for manifest in sets)
        spread = f"**{np.mean(gains):+.2f}** ({min(gains):+.2f} to {max(gains):+.2f})"
        said = f"; {failed} of {len(sets)} came to nothing" if failed else ""
        lines.append(f"| {model} | all | | | | | {spread}{said} | | | | |")
    return lines


def row(manifest: Manifest) -> list[str]:
    """One recording, but for its model."""
    rounds = manifest["rounds"]
    control = rounds[-1]["control"]
    tokens = sum(r["prompt_tokens"] for r in rounds), sum(r["completion_tokens"] for r in rounds)
    gain = "-" if best(manifest) is None else f"{added(manifest):+.2f}"
    return [
        str(manifest["settings"].get("seed", "")),
        ", ".join(f"{r['validity']:.0%}" for r in rounds),
        f"{sum(r['executable'] for r in rounds)} of {sum(r['candidates'] for r in rounds)}",
        ", ".join(figure(r["best_so_far"]) for r in rounds),
        f"{control['mean']:.2f} ({control['low']:.2f} to {control['high']:.2f})",
        gain,
        figure(fresh_return(manifest)),
        f"{tokens[0]:,} + {tokens[1]:,}",
        per_thousand_steps(manifest, sum(tokens)),
        f"{sum(r['seconds'] for r in rounds):,.0f}",
    ]


def best(manifest: Manifest) -> float | None:
    """The best return so far after the last round."""
    return manifest["rounds"][-1]["best_so_far"]


def added(manifest: Manifest) -> float:
    """What the best plan is above the control's mean, after the last round; without a plan, what random actions are."""
    reached = best(manifest)
    value = manifest["random_return_per_agent"] if reached is None else reached
    return float(value - manifest["rounds"][-1]["control"]["mean"])


def fresh_return(manifest: Manifest) -> float | None:
    """The best plan's return on other episodes; the mean over the plans where each is for a state of its own."""
    plans = manifest["plans"] if manifest["kind"] == "episodes" else manifest["plans"][:1]
    returns = [plan["report_return_per_agent"] for plan in plans]
    return float(np.mean(returns)) if returns and None not in returns else None


def per_thousand_steps(manifest: Manifest, tokens: int) -> str:
    """Tokens per thousand environment steps of as many episodes as a recording stores."""
    episodes = manifest["settings"].get("recorded_episodes")
    steps = manifest["environment"]["config"].get("max_steps")
    if not episodes or not steps or not tokens or not manifest["plans"]:
        return "-"
    return f"{1000 * tokens / (episodes * steps):,.0f}"


def figure(value: float | None) -> str:
    """A return, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def draw(path: Path, kinds: Mapping[str, Mapping[str, Sequence[Manifest]]]) -> None:
    """Draw the best plan so far by round, and the control over all seeds, a panel for each kind of plan.

    Args:
        path: the PNG to write.
        kinds: manifests by kind and by who was asked.
    """
    picture = Figure(figsize=(5.5 * len(kinds), 4.2), layout="constrained")
    for column, (kind, groups) in enumerate(kinds.items()):
        axes = picture.add_subplot(1, len(kinds), column + 1)
        for number, (model, sets) in enumerate(groups.items()):
            for i, manifest in enumerate(sets):
                rounds = [r for r in manifest["rounds"] if r["best_so_far"] is not None]
                places, values = [r["index"] + 1 for r in rounds], [r["best_so_far"] for r in rounds]
                axes.plot(places, values, "o-", color=f"C{number}", alpha=0.8, label=model if i == 0 else None)
        draw_control(axes, [manifest["rounds"] for sets in groups.values() for manifest in sets])
        axes.set(xlabel="round", ylabel="best return per agent so far", title=kind)
        longest = max(len(manifest["rounds"]) for sets in groups.values() for manifest in sets)
        axes.set(xlim=(0.5, longest + 0.5), xticks=range(1, longest + 1))
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    picture.savefig(path, dpi=130)


def draw_control(axes: Any, recordings: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """The mean of the recordings' controls, round by round, and the mean of the range of 95 % of their draws."""
    longest = max(map(len, recordings))
    by_round = [[rounds[i]["control"] for rounds in recordings if i < len(rounds)] for i in range(longest)]
    places = range(1, longest + 1)
    mean, low, high = ([float(np.mean([c[name] for c in cs])) for cs in by_round] for name in ("mean", "low", "high"))
    axes.plot(places, mean, "ks--", label="control, mean over seeds")
    axes.fill_between(places, low, high, color="0.8", alpha=0.6, linewidth=0)


if __name__ == "__main__":
    main()

"""What the expert term costs in training speed: with it in the loop, with it from arrays, and without it, in turn.

    python benchmarks/expert_cost.py
    python benchmarks/expert_cost.py env.num_agents=10 demonstrations.path=mpe_spread/qwen2.5-coder-1.5b-agents10

All three have the settings of the experiment mpe_spread for algorithm=leed, and further ones from the command line;
the one without is algorithm=ippo. Compilation and the learning curve's episodes are not counted. The runs alternate, so
that a change in the machine's speed affects all.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax

from leed_jax.config.compose import compose_config
from leed_jax.training.program import Program, prepare

WITHOUT = "without"
VARIANTS = {
    WITHOUT: ["algorithm=ippo"],
    "in the loop": ["algorithm=leed", "expert.source=instructions"],
    "arrays": ["algorithm=leed", "expert.source=arrays"],
}


def training(settings: list[str]) -> Callable[[], float]:
    """Compile a program for these settings; the function trains once from beginning to end, and returns the seconds."""
    setup = prepare(compose_config(settings))
    program = Program(setup)
    program.compile()

    def train() -> float:
        state = jax.block_until_ready(program.init())
        start = time.perf_counter()
        for _ in range(setup.schedule.chunks):
            state, metrics = program.step(state)
            jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return train


def main() -> None:
    """Run all in turn; print the seconds of each, and what they are as a multiple of those without the term."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as of python -m leed_jax.run")
    options = parser.parse_args()
    # The experiment has other settings for ippo, with which an update costs something else.
    config = compose_config(["experiment=mpe_spread"])
    same = [f"num_envs={config.num_envs}", *(f"ppo.{key}={value}" for key, value in vars(config.ppo).items())]
    common = ["experiment=mpe_spread", "total_steps=200000", "evaluation.curve_episodes=0", *same, *options.settings]
    runs = {name: training([*common, *changes]) for name, changes in VARIANTS.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number > 0:  # the first round warms up
                taken[name].append(seconds)
    print("| expert term | s, median | times the one without, median (lowest to highest) |\n|---|---|---|")
    for name, values in taken.items():
        ratios = [own / without for own, without in zip(values, taken[WITHOUT], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {statistics.median(values):.2f} | {spread} |")


if __name__ == "__main__":
    main()

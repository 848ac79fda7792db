"""Training speed of independent PPO compared with JaxMARL's own IPPO script, in turn, in one process.

    git clone https://github.com/FLAIROx/JaxMARL
    python benchmarks/training_speed.py --jaxmarl JaxMARL --num-envs 128 --rollout-steps 25

Both get the same task (simple_spread, 3 agents), the same layers (64-64 tanh, separate actor and critic), and the same
numbers of environments, steps, epochs and minibatches. Theirs shares parameters among the agents; ours gives each its
own. Compilation is not counted. The runs alternate, so that a change in the machine's speed affects both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jaxmarl_scripts import load_script

from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.learning.config import Hparams, PPOConfig
from leed_jax.learning.ppo import init_state, make_train_chunk
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.policy import Policy


def jaxmarl_run(checkout: Path, num_envs: int, rollout_steps: int, updates: int) -> Callable[[], None]:
    """Compile JaxMARL's script for so many updates, and return a function that runs it once."""
    module = load_script(checkout / "baselines/IPPO/ippo_ff_mpe.py", [])
    config: dict[str, Any] = {
        "LR": 2.5e-4,
        "NUM_ENVS": num_envs,
        "NUM_STEPS": rollout_steps,
        "TOTAL_TIMESTEPS": num_envs * rollout_steps * updates,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "MPE_simple_spread_v3",
        "ENV_KWARGS": {},
        "ANNEAL_LR": True,
    }
    train = jax.jit(module.make_train(config)).lower(jax.random.PRNGKey(0)).compile()
    return lambda: jax.block_until_ready(train(jax.random.PRNGKey(0)))


def our_run(num_envs: int, rollout_steps: int, updates: int) -> Callable[[], None]:
    """Compile our chunk of so many updates, and return a function that runs it once."""
    environment = SimpleSpread()
    policy = Policy.of(environment, NetworkConfig(hidden_sizes=(64, 64), activation="tanh"))
    hparams = Hparams(float(updates), ppo=PPOConfig(learning_rate=2.5e-4, epochs=4, minibatches=4)).as_arrays()
    start = jax.jit(lambda key: init_state(environment, policy, num_envs, key))
    chunk = jax.jit(make_train_chunk(environment, policy, rollout_steps, updates), donate_argnums=0)
    compiled = chunk.lower(start(jax.random.key(0)), None, hparams).compile()
    return lambda: jax.block_until_ready(compiled(start(jax.random.key(0)), None, hparams))


def main() -> None:
    """Run both in turn and print steps per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jaxmarl", type=Path, required=True, help="folder of a JaxMARL checkout")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--rollout-steps", type=int, default=25)
    parser.add_argument("--steps", type=int, default=400_000, help="environment steps of one run")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    updates = options.steps // (options.num_envs * options.rollout_steps)
    steps = updates * options.num_envs * options.rollout_steps
    runs = {
        "leed_jax": our_run(options.num_envs, options.rollout_steps, updates),
        "JaxMARL": jaxmarl_run(options.jaxmarl, options.num_envs, options.rollout_steps, updates),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(options.pairs + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if pair > 0:  # the first pair warms up
                speeds[name].append(steps / (time.perf_counter() - start))
    for name, values in speeds.items():
        print(f"{name:9} {statistics.median(values):9.0f} steps/s  (min {min(values):.0f}, max {max(values):.0f})")
    ratios = [ours / theirs for ours, theirs in zip(speeds["leed_jax"], speeds["JaxMARL"], strict=True)]
    print(f"ratio     {statistics.median(ratios):9.2f}          (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()

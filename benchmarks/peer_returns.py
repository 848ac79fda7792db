"""Returns of the baselines compared with JaxMARL's own scripts for the same algorithms, task and number of steps.

    git clone https://github.com/FLAIROx/JaxMARL
    python benchmarks/peer_returns.py --jaxmarl JaxMARL --seeds 2

Theirs run as they are, with the settings committed beside each script; only the number of steps and the seeds are
changed. Ours run as `experiment=mpe_spread algorithm=NAME`. Each learner is then played on fresh episodes in its own
library's environment, with greedy and, for ippo and mappo, with sampled actions. The task is simple_spread with 3
agents; episodes have 26 steps in both. A return is the undiscounted sum of an agent's rewards, averaged over agents.

Their log multiplies a return by the number of agents. The last column is what it says, divided by that number: for ippo
and mappo the mean over the last 5 % of the updates, with sampled actions; for vdn and qmix the last greedy test.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxmarl_scripts import load_script
from omegaconf import OmegaConf
from rich.console import Console

from leed_jax.config.compose import compose_config
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.learning.episodes import play as play_ours
from leed_jax.learning.episodes import random_actor
from leed_jax.training.runner import start_run

TASK = "MPE_simple_spread_v3"
ACTIONS = 5
EPISODE_STEPS = 26
LOGGED_SHARE = 0.05
RANDOM_EPISODES = 16_384

# From the carry and observations `[A, E, O]` to the next carry and actions.
Act = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]


class Result(NamedTuple):
    """Returns per agent of one trained seed; None where there is none.

    Attributes:
        greedy: of its most probable, or most valuable, actions.
        sampled: of actions drawn from its policy.
        logged: what its library wrote down in training.
    """

    greedy: float | None
    sampled: float | None
    logged: float | None


# Script and settings, in a checkout of JaxMARL.
PEERS = {
    "ippo": ("IPPO/ippo_ff_mpe.py", "IPPO/config/ippo_ff_mpe.yaml"),
    "mappo": ("MAPPO/mappo_rnn_mpe.py", "MAPPO/config/mappo_homogenous_rnn_mpe.yaml"),
    "vdn": ("QLearning/vdn_rnn.py", "QLearning/config/alg/ql_rnn_mpe.yaml"),
    "qmix": ("QLearning/qmix_rnn.py", "QLearning/config/alg/ql_rnn_mpe.yaml"),
}
VALUE_BASED = ("vdn", "qmix")


def load_config(path: Path, total_steps: int) -> dict[str, Any]:
    """JaxMARL's settings, with another number of steps."""
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    config["TOTAL_TIMESTEPS"] = total_steps
    config["WANDB_MODE"] = "offline"  # the Q-learning scripts log nothing where it is "disabled"
    return config


def play(environment: Any, act: Act, carry: Any, key: jax.Array, episodes: int) -> jax.Array:
    """The mean return per agent of whole episodes in JaxMARL's environment; `key` is consumed."""

    def stack(values: dict[str, jax.Array]) -> jax.Array:
        return jnp.stack([values[name] for name in environment.agents])

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        state, obs, hidden = carry
        action_key, step_key = jax.random.split(key)
        hidden, action = act(hidden, obs, action_key)
        actions = dict(zip(environment.agents, action, strict=True))
        seen, state, reward, _, _ = jax.vmap(environment.step_env)(jax.random.split(step_key, episodes), state, actions)
        return (state, stack(seen), hidden), stack(reward)

    reset_key, play_key = jax.random.split(key)
    seen, state = jax.vmap(environment.reset)(jax.random.split(reset_key, episodes))
    keys = jax.random.split(play_key, EPISODE_STEPS)
    return jnp.sum(jax.lax.scan(step, (state, stack(seen), carry), keys)[1], axis=0).mean()


def peer_act(algorithm: str, module: Any, config: dict[str, Any], state: Any, greedy: bool) -> Act:
    """How a learner of theirs acts, from the last state of its training."""

    def choose(policy: Any, key: jax.Array) -> jax.Array:
        return policy.mode() if greedy else policy.sample(seed=key)

    def ippo(carry: Any, observation: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        policy, _ = module.ActorCritic(ACTIONS, config["ACTIVATION"]).apply(state[0].params, observation)
        return carry, choose(policy, key)

    def mappo(carry: Any, observation: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        flat = observation.reshape(1, -1, observation.shape[-1])
        inside = jnp.zeros(flat.shape[:2], bool)
        carry, policy = module.ActorRNN(ACTIONS, config).apply(state[0][0][0].params, carry, (flat, inside))
        return carry, choose(policy, key).reshape(observation.shape[:2])

    def value_based(carry: Any, observation: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        del key
        agents, episodes, _ = observation.shape
        names = jnp.broadcast_to(jnp.eye(agents)[:, None], (agents, episodes, agents))  # one-hot indices
        flat = jnp.concatenate([observation, names], axis=-1).reshape(1, agents * episodes, -1)
        parameters = state[0].params["agent"] if algorithm == "qmix" else state[0].params
        network = module.RNNQNetwork(ACTIONS, config["HIDDEN_SIZE"])
        carry, values = network.apply(parameters, carry, flat, jnp.zeros(flat.shape[:2], bool))
        return carry, jnp.argmax(values, axis=-1).reshape(agents, episodes)

    return value_based if algorithm in VALUE_BASED else {"ippo": ippo, "mappo": mappo}[algorithm]


def logged_return(algorithm: str, log: list[dict[str, Any]], agents: int) -> float:
    """What their script wrote down at the end of training, per agent."""
    if algorithm in VALUE_BASED:
        return float(max(log, key=lambda row: int(row["update_steps"]))["test_returned_episode_returns"]) / agents
    name = "returns" if algorithm == "mappo" else "returned_episode_returns"
    values = [float(row[name]) for row in log]
    return statistics.fmean(values[-max(1, round(LOGGED_SHARE * len(values))) :]) / agents


def train_theirs(checkout: Path, algorithm: str, total_steps: int, seeds: list[int], episodes: int) -> list[Result]:
    """Train and play JaxMARL's learner, one seed after the other."""
    import jaxmarl  # noqa: PLC0415 - its import is slow, and prints

    log: list[dict[str, Any]] = []
    script, settings = (checkout / "baselines" / path for path in PEERS[algorithm])
    module, config = load_script(script, log), load_config(settings, total_steps)
    environment = jaxmarl.make(TASK)
    inputs = (module.env_from_config(config)[0],) if algorithm in VALUE_BASED else ()
    train = module.make_train(config, *inputs)
    compiled = jax.jit(train).lower(jax.random.PRNGKey(0)).compile()
    results = []
    for seed in seeds:
        log.clear()
        out = jax.block_until_ready(compiled(jax.random.PRNGKey(seed)))
        jax.effects_barrier()

        def score(greedy: bool, state: Any = out["runner_state"]) -> float:
            act = peer_act(algorithm, module, config, state, greedy)
            size = config.get("GRU_HIDDEN_DIM") or config.get("HIDDEN_SIZE", 0)  # ippo's networks are feed-forward
            carry = jnp.zeros((environment.num_agents * episodes, size))
            return float(jax.jit(lambda key: play(environment, act, carry, key, episodes))(jax.random.key(1_000_003)))

        sampled = None if algorithm in VALUE_BASED else score(False)
        logged = logged_return(algorithm, log, environment.num_agents)
        results.append(Result(score(True), sampled, logged))
    return results


def train_ours(algorithm: str, total_steps: int, seeds: list[int], episodes: int) -> list[Result]:
    """Train and play our learner, all seeds side by side."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "total_steps": total_steps,
            "num_seeds": len(seeds),
            "evaluation.episodes": episodes,
            "evaluation.curve_episodes": 0,
            "demonstrations.path": "",
            "out": Path(folder) / algorithm,
        }
        config = compose_config(
            ["experiment=mpe_spread", f"algorithm={algorithm}", *(f"{key}={value}" for key, value in settings.items())]
        )
        summary: Any = start_run(config, Console(quiet=True)).summary
    greedy, sampled = summary["return_per_agent"], summary["stochastic_return_per_agent"]
    sampled = [None] * len(seeds) if algorithm in VALUE_BASED else sampled
    return [Result(*values, None) for values in zip(greedy, sampled, strict=True)]


def random_theirs(episodes: int) -> Result:
    """Random actions in JaxMARL's environment: the sum of the rewards, and what its log makes of the same episodes."""
    import jaxmarl  # noqa: PLC0415 - as above
    from jaxmarl.wrappers.baselines import MPELogWrapper  # noqa: PLC0415 - as above

    environment = MPELogWrapper(jaxmarl.make(TASK))
    num_agents = environment.num_agents

    def step(state: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        action_key, step_key = jax.random.split(key)
        action = jax.random.randint(action_key, (num_agents, episodes), 0, ACTIONS)
        actions = dict(zip(environment.agents, action, strict=True))
        _, state, reward, _, info = jax.vmap(environment.step)(jax.random.split(step_key, episodes), state, actions)
        return state, (sum(reward.values()).mean() / num_agents, info["returned_episode_returns"].mean())

    _, state = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), episodes))
    reward, logged = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), EPISODE_STEPS))[1]
    if jnp.any(logged[:-1] != 0.0) or logged[-1] == 0.0:
        raise SystemExit(f"JaxMARL's episodes do not have {EPISODE_STEPS} steps; the returns could not be compared.")
    return Result(None, float(reward.sum()), float(logged[-1]) / num_agents)


def random_ours(episodes: int) -> Result:
    """Random actions in our environment."""
    environment = SimpleSpread()
    returns, _ = play_ours(environment, random_actor(environment), jax.random.key(0), episodes)
    return Result(None, float(returns.mean()), None)


def row(algorithm: str, who: str, results: list[Result]) -> str:
    """A line of the table: the mean of each column, and every seed's value behind it."""
    cells = [algorithm, who, str(len(results))]
    for values in zip(*results, strict=True):
        known = [value for value in values if value is not None]
        each = f" ({', '.join(f'{value:.2f}' for value in known)})" if len(known) > 1 else ""
        cells.append(f"{statistics.fmean(known):.2f}{each}" if known else "-")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train all that was asked for, and print a line of Markdown for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jaxmarl", type=Path, required=True, help="folder of a JaxMARL checkout")
    parser.add_argument("--total-steps", type=int, default=1_000_000, help="environment steps of one seed")
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0 on")
    parser.add_argument("--algorithms", default=",".join(PEERS), help="some of them, separated by commas")
    parser.add_argument("--who", choices=["both", "theirs", "ours"], default="both")
    parser.add_argument("--episodes", type=int, default=1024, help="fresh ones behind each return")
    options = parser.parse_args()
    algorithms, seeds = options.algorithms.split(","), list(range(options.seeds))
    if not seeds or set(algorithms) - set(PEERS):
        parser.error(f"--seeds must be at least 1, and --algorithms some of {','.join(PEERS)}.")
    print(f"Returns per agent after {options.total_steps:,} environment steps.\n")
    print("| algorithm | who | seeds | greedy | sampled | their log |\n|---|---|---|---|---|---|")
    print(row("random actions", "JaxMARL", [random_theirs(RANDOM_EPISODES)]))
    print(row("random actions", "leed_jax", [random_ours(RANDOM_EPISODES)]), flush=True)
    for algorithm in algorithms:
        arguments = (algorithm, options.total_steps, seeds, options.episodes)
        if options.who != "ours":
            print(row(algorithm, "JaxMARL", train_theirs(options.jaxmarl, *arguments)), flush=True)
        if options.who != "theirs":
            print(row(algorithm, "leed_jax", train_ours(*arguments)), flush=True)


if __name__ == "__main__":
    main()

"""Experience from parallel environments: one scan in which every agent acts on its own policy."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environment import AutoReset, Environment
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import InstructedEnvironment, Plan, current_instruction
from leed_jax.policy import Policy, PolicyParameters, sample_action


@struct.dataclass
class Actors:
    """The environments between two rollouts.

    Attributes:
        environment_state: the environments' states, stacked on a leading axis `E`.
        observation: what each agent acts on next.
        available_actions: what each agent may do next.
        running_return: each agent's return in the episode so far.
        counter: the position of each agent's current instruction, where there are instructions.
    """

    environment_state: Any
    observation: Float[Array, "E A O"]
    available_actions: Bool[Array, "E A N"]
    running_return: Float[Array, "E A"]
    counter: Int[Array, "E A"]


@struct.dataclass
class Rollout:
    """Steps of all agents in all environments.

    Attributes:
        observation: what the agent acted on.
        available_actions: what it could do.
        action: what it did.
        log_prob: the log-probability of that under the acting policy.
        value: its critic's estimate before the step.
        next_value: its critic's estimate for the state that the step led to, before any reset.
        reward: what it earned.
        terminated: whether nothing follows for it.
        episode_over: whether the step was the last one of the episode.
        episode_return: its return in the episode so far, the step included.
        instructed_action: what its instructions would have had it do; None where there are none.
    """

    observation: Float[Array, "T E A O"]
    available_actions: Bool[Array, "T E A N"]
    action: Int[Array, "T E A"]
    log_prob: Float[Array, "T E A"]
    value: Float[Array, "T E A"]
    next_value: Float[Array, "T E A"]
    reward: Float[Array, "T E A"]
    terminated: Bool[Array, "T E A"]
    episode_over: Bool[Array, "T E"]
    episode_return: Float[Array, "T E A"]
    instructed_action: Int[Array, "T E A"] | None = None


def start_actors(environment: Environment, key: PRNGKeyArray, num_envs: int) -> Actors:
    """Reset `num_envs` environments; `key` is consumed."""
    state, time_step = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    return Actors(
        environment_state=state,
        observation=time_step.observation,
        available_actions=time_step.available_actions,
        running_return=jnp.zeros_like(time_step.reward),
        counter=jnp.zeros(time_step.reward.shape, jnp.int32),
    )


def all_logits(
    policy: Policy,
    parameters: PolicyParameters,
    observation: Float[Array, "E A O"],
    available: Bool[Array, "E A N"],
) -> Float[Array, "E A N"]:
    """Logits of every agent, each from its own parameters."""
    return jax.vmap(policy.logits, in_axes=(0, 1, 1), out_axes=1)(parameters, observation, available)


def all_values(policy: Policy, parameters: PolicyParameters, observation: Float[Array, "E A O"]) -> Float[Array, "E A"]:
    """Value estimates of every agent, each from its own parameters."""
    return jax.vmap(policy.value, in_axes=(0, 1), out_axes=1)(parameters, observation)


def collect(
    environment: AutoReset,
    policy: Policy,
    parameters: PolicyParameters,
    actors: Actors,
    key: PRNGKeyArray,
    num_steps: int,
    plans: Plan | None = None,
) -> tuple[Actors, Rollout]:
    """Let all agents act for `num_steps` steps in all environments.

    Plans, if there are any, are asked what they would do where the agents stand, as in DAgger (Ross et al. 2011, arXiv
    1011.0686): environment e asks plan e mod P. An agent's program counter moves on when its instruction is achieved,
    whoever achieved it.

    Args:
        environment: what to act in; static.
        policy: the agents' networks; static.
        parameters: the agents' parameters, stacked on the agent axis.
        actors: where the environments stand.
        key: source of actions and transitions; consumed.
        num_steps: the number of steps, `T`; static.
        plans: plans stacked on a leading axis `P`, for an environment that offers instructions.

    Raises:
        ConfigurationError: there are plans, and the environment offers no instructions.
    """
    num_envs = actors.observation.shape[0]
    ask = None if plans is None else _Ask(_instructed(environment.environment), plans, num_envs)

    def advance(actors: Actors, key: PRNGKeyArray) -> tuple[Actors, Rollout]:
        action_key, step_key = jax.random.split(key)
        logits = all_logits(policy, parameters, actors.observation, actors.available_actions)
        action, log_prob = sample_action(logits, action_key)
        state, time_step = jax.vmap(environment.step)(
            actors.environment_state, action, jax.random.split(step_key, num_envs)
        )
        over = jax.vmap(lambda step: step.episode_over())(time_step)
        instructed, counter = None, actors.counter
        if ask is not None:
            instructed = ask.action(actors.environment_state, counter)
            counter = jnp.where(over[:, None], 0, ask.following(state, counter))
        episode_return = actors.running_return + time_step.reward
        record = Rollout(
            observation=actors.observation,
            available_actions=actors.available_actions,
            action=action,
            log_prob=log_prob,
            value=all_values(policy, parameters, actors.observation),
            next_value=all_values(policy, parameters, time_step.final_observation),
            reward=time_step.reward,
            terminated=time_step.terminated,
            episode_over=over,
            episode_return=episode_return,
            instructed_action=instructed,
        )
        actors = Actors(
            environment_state=state,
            observation=time_step.observation,
            available_actions=time_step.available_actions,
            running_return=jnp.where(over[:, None], 0.0, episode_return),
            counter=counter,
        )
        return actors, record

    return jax.lax.scan(advance, actors, jax.random.split(key, num_steps))


def _instructed(environment: Environment) -> InstructedEnvironment:
    if not isinstance(environment, InstructedEnvironment):
        raise ConfigurationError(
            f"{type(environment).__name__} offers no instructions, so no plan can be asked in it; wrap it by "
            "leed_jax.demonstrations.instructed, which offers its primitive actions."
        )
    return environment


class _Ask:
    """The instructions of every environment's plan."""

    def __init__(self, environment: InstructedEnvironment, plans: Plan, num_envs: int) -> None:
        which = jnp.arange(num_envs) % plans.length.shape[0]
        self._environment = environment
        self._plans = jax.tree.map(lambda x: x[which], plans)

    def action(self, state: Any, counter: Int[Array, "E A"]) -> Int[Array, "E A"]:
        """What the current instructions have the agents do."""
        return jax.vmap(self._environment.act)(state, *jax.vmap(current_instruction)(self._plans, counter))

    def following(self, state: Any, counter: Int[Array, "E A"]) -> Int[Array, "E A"]:
        """The counters after a step that led to `state`."""
        done = jax.vmap(self._environment.achieved)(state, *jax.vmap(current_instruction)(self._plans, counter))
        return jnp.minimum(counter + done, self._plans.length - 1)

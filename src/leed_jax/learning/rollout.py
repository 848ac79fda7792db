"""Experience from parallel environments, in one scan. All algorithms use it; they differ in the act function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import AutoReset, TimeStep
from leed_jax.environments.actions import executable
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import InstructedEnvironment, Plan, current_instruction


@struct.dataclass
class RolloutState:
    """The environments between two rollouts.

    Attributes:
        environment_state: the environments' states, stacked on a leading axis `E`.
        obs: the observation that each agent acts on next.
        available_actions: which actions each agent may take next.
        episode_return: each agent's return in the episode so far.
        instruction: the position of each agent's current instruction, where there are plans.
        is_first: whether the next step is the first of an episode.
        active: which agents take part in the next step; false once they have terminated before the others.
        hidden: hidden states of recurrent networks, `[E, A, H]`; None for feed-forward ones.
    """

    environment_state: Any
    obs: Float[Array, "E A O"]
    available_actions: Bool[Array, "E A N"]
    episode_return: Float[Array, "E A"]
    instruction: Int[Array, "E A"]
    is_first: Bool[Array, "E"]
    active: Bool[Array, "E A"]
    hidden: Any = None


@struct.dataclass
class Rollout:
    """Steps of all agents in all environments; while they are collected, without the axis `T`.

    Attributes:
        obs: the observation that the agent acted on.
        available_actions: which actions it could take.
        action: the action, `[T, E, A]`, or `[T, E, A, N]` where actions are continuous.
        reward: the reward of it.
        terminated: whether the agent has terminated: no value is bootstrapped.
        done: whether the step was the last of the episode, for whatever reason.
        is_first: whether the step was the first of an episode.
        active: whether the agent took part.
        episode_return: its return in the episode so far, this step included.
        final_obs: the observation that the step led to, before any automatic reset.
        final_available_actions: which actions the agent could have taken there.
        extras: what the act function returned of its own, log-probabilities and values for instance.
        expert_action: the action that its instructions say; None where there are no plans.
    """

    obs: Float[Array, "T E A O"]
    available_actions: Bool[Array, "T E A N"]
    action: Array
    reward: Float[Array, "T E A"]
    terminated: Bool[Array, "T E A"]
    done: Bool[Array, "T E"]
    is_first: Bool[Array, "T E"]
    active: Bool[Array, "T E A"]
    episode_return: Float[Array, "T E A"]
    final_obs: Float[Array, "T E A O"]
    final_available_actions: Bool[Array, "T E A N"]
    extras: Any
    expert_action: Array | None = None

    def finished_returns(self) -> tuple[Int[Array, ""], Float[Array, "A"]]:
        """The number of episodes that ended, and the sum of their returns for each agent."""
        returns = jnp.where(self.done[..., None], self.episode_return, 0.0)
        return jnp.sum(self.done), jnp.sum(returns, axis=(0, 1))


Finish = Callable[[TimeStep], Any]
ActFn = Callable[[RolloutState, PRNGKeyArray], tuple[Any, Array, Finish]]
"""`act(state, key) -> (hidden, action, finish)`; `finish(time_step)` gives `Rollout.extras` once the step is known."""


def init_rollout(environment: AutoReset, key: PRNGKeyArray, num_envs: int, hidden: Any = None) -> RolloutState:
    """Reset `num_envs` environments.

    Args:
        environment: what to act in.
        key: source of the initial states; consumed.
        num_envs: the number of environments, `E`.
        hidden: hidden states at the start of an episode; None for feed-forward networks.
    """
    state, time_step = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    return RolloutState(
        environment_state=state,
        obs=time_step.observation,
        available_actions=time_step.available_actions,
        episode_return=jnp.zeros_like(time_step.reward),
        instruction=jnp.zeros(time_step.reward.shape, jnp.int32),
        is_first=jnp.ones(num_envs, bool),
        active=jnp.ones(time_step.reward.shape, bool),
        hidden=hidden,
    )


def collect(
    environment: AutoReset,
    act: ActFn,
    state: RolloutState,
    key: PRNGKeyArray,
    num_steps: int,
    plans: Plan | None = None,
) -> tuple[RolloutState, Rollout]:
    """Let all agents act for `num_steps` steps in all environments.

    Where there are plans, they are executed in the learners' own states to label these with the expert's actions, as in
    DAgger (Ross et al. 2011, arXiv 1011.0686): environment e follows plan e mod P. An agent's instruction changes when
    it is achieved, whichever policy achieved it.

    Args:
        environment: what to act in; static.
        act: chooses the actions.
        state: the environments.
        key: source of actions and transitions; consumed.
        num_steps: the number of steps, `T`; static.
        plans: plans stacked on a leading axis `P`, for an environment that offers instructions.

    Raises:
        ConfigurationError: there are plans, and the environment offers no instructions.
    """
    if plans is not None:
        which = jnp.arange(state.obs.shape[0]) % plans.length.shape[0]
        plans = jax.tree.map(lambda x: x[which], plans)
    step = functools.partial(_step, environment, act, plans)
    return jax.lax.scan(step, state, jax.random.split(key, num_steps))


def _step(
    environment: AutoReset, act: ActFn, plans: Plan | None, state: RolloutState, key: PRNGKeyArray
) -> tuple[RolloutState, Rollout]:
    """One step of all agents in all environments."""
    action_key, step_key = jax.random.split(key)
    hidden, action, finish = act(state, action_key)
    environment_state, time_step = jax.vmap(environment.step)(
        state.environment_state, executable(environment, action), jax.random.split(step_key, state.obs.shape[0])
    )
    done = jax.vmap(TimeStep.done)(time_step)
    expert_action, instruction = None, state.instruction
    if plans is not None:
        expert_action, instruction = _follow_plans(environment, plans, state, environment_state)
        instruction = jnp.where(done[:, None], 0, instruction)
    episode_return = state.episode_return + jnp.where(state.active, time_step.reward, 0.0)
    step = Rollout(
        obs=state.obs,
        available_actions=state.available_actions,
        action=action,
        reward=time_step.reward,
        terminated=time_step.terminated,
        done=done,
        is_first=state.is_first,
        active=state.active,
        episode_return=episode_return,
        final_obs=time_step.final_observation,
        final_available_actions=time_step.final_available_actions,
        extras=finish(time_step),
        expert_action=expert_action,
    )
    next_state = RolloutState(
        environment_state=environment_state,
        obs=time_step.observation,
        available_actions=time_step.available_actions,
        episode_return=jnp.where(done[:, None], 0.0, episode_return),
        instruction=instruction,
        is_first=done,
        active=done[:, None] | (state.active & ~time_step.terminated),
        hidden=hidden,
    )
    return next_state, step


def _follow_plans(
    environment: AutoReset, plans: Plan, state: RolloutState, next_environment_state: Any
) -> tuple[Array, Int[Array, "E A"]]:
    """The actions that the current instructions say, and the positions of the instructions after the step."""
    instructed = environment.environment
    if not isinstance(instructed, InstructedEnvironment):
        raise ConfigurationError(
            f"{type(instructed).__name__} offers no instructions, so no plan can be executed in it; wrap it by "
            "leed_jax.demonstrations.instructed, which offers its primitive actions."
        )
    current = jax.vmap(current_instruction)(plans, state.instruction)
    action = jax.vmap(instructed.act)(state.environment_state, *current)
    achieved = jax.vmap(instructed.achieved)(next_environment_state, *current)
    return action, jnp.minimum(state.instruction + achieved, plans.length - 1)

"""Execution of plans inside jit: one scan over the episode, with a program counter per agent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from leed_jax.environments import reset_env, step_env
from leed_jax.instructions.plan import Plan
from leed_jax.instructions.vocabulary import InstructedEnvironment


@struct.dataclass
class Trajectory:
    """One executed episode, padded to the environment's `max_steps`; batches have leading axes.

    Attributes:
        observation: each agent's observation before the step.
        action: its instructed action, `[*N, T, A]`, or `[*N, T, A, C]` if actions are continuous.
        taken: the action it took, which differs from `action` only by noise.
        reward: its reward for the step.
        available_actions: the actions that were available to it.
        active: whether the agent took part in the step: false once it has terminated or the episode is over.
        terminated: whether the agent terminated in the step. If its last active step did not, it was truncated.
    """

    observation: Float[Array, "*N T A O"]
    action: Array
    taken: Array
    reward: Float[Array, "*N T A"]
    available_actions: Bool[Array, "*N T A C"]
    active: Bool[Array, "*N T A"]
    terminated: Bool[Array, "*N T A"]

    def episode_return(self) -> Float[Array, "*N A"]:
        """The undiscounted return of each agent."""
        return jnp.sum(jnp.where(self.active, self.reward, 0.0), axis=-2)


Observe = Callable[[Any, Any, Trajectory, Array], Any]
"""`observe(state, next_state, step, counter)`: what to keep of a step, which is a `Trajectory` without the axis `T`."""


def current_instruction(plan: Plan, counter: Int[Array, "A"]) -> tuple[Int[Array, "A"], Int[Array, "A"]]:
    """The command and the parameter at each agent's program counter."""
    agents = jnp.arange(counter.shape[0])
    return plan.command[agents, counter], plan.parameter[agents, counter]


def execute(
    environment: InstructedEnvironment,
    plan: Plan,
    key: PRNGKeyArray,
    noise: Float[Array, ""] | float = 0.0,
    reset_key: PRNGKeyArray | None = None,
) -> Trajectory:
    """Execute a plan for one episode. Pure and jittable.

    An agent's program counter moves on when the environment says that its instruction is achieved. Its last instruction
    stays in force until the episode is over.

    Args:
        environment: where to execute; static.
        plan: one plan, without leading axes.
        key: source of the initial state, the transitions and the noise; consumed.
        noise: the probability with which an agent's action is replaced by a random available one. `action` still
            records the instructed action, so that demonstrations show the way back from states that the plan alone
            would not reach (DART: Laskey et al. 2017, arXiv 1703.09327, with uniform noise).
        reset_key: source of the initial state, if it is given; not consumed.
    """
    return observe_execution(environment, plan, key, lambda _state, _next, step, _counter: step, noise, reset_key)


def observe_execution(
    environment: InstructedEnvironment,
    plan: Plan,
    key: PRNGKeyArray,
    observe: Observe,
    noise: Float[Array, ""] | float = 0.0,
    reset_key: PRNGKeyArray | None = None,
) -> Any:
    """Execute a plan as `execute` does, and return what `observe` returns for each step, on a leading axis `T`.

    Steps in which no agent is active are padding.
    """
    own_key, step_key = jax.random.split(key)
    state, time_step = reset_env(environment, own_key if reset_key is None else reset_key)

    def advance(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        state, time_step, counter, active = carry
        step_key, noise_key = jax.random.split(key)
        command, parameter = current_instruction(plan, counter)
        action = environment.act(state, command, parameter)
        taken = _disturb(action, time_step.available_actions, noise, noise_key)
        next_state, next_step = step_env(environment, state, taken, step_key)
        achieved = environment.achieved(next_state, command, parameter)
        step = Trajectory(
            observation=time_step.observation,
            action=action,
            taken=taken,
            reward=next_step.reward,
            available_actions=time_step.available_actions,
            active=active,
            terminated=active & next_step.terminated,
        )
        next_counter = jnp.minimum(counter + achieved, plan.length - 1)
        next_active = active & ~next_step.terminated & ~next_step.done()
        return (next_state, next_step, next_counter, next_active), observe(state, next_state, step, counter)

    counter = jnp.zeros(environment.num_agents, jnp.int32)
    start = (state, time_step, counter, jnp.ones(environment.num_agents, bool))
    return jax.lax.scan(advance, start, jax.random.split(step_key, environment.max_steps))[1]


def _disturb(action: Array, available: Bool[Array, "A C"], noise: Float[Array, ""] | float, key: PRNGKeyArray) -> Array:
    """Replace each agent's action by a random available one with probability `noise`; `key` is consumed."""
    choice_key, action_key = jax.random.split(key)
    chosen = jax.random.bernoulli(choice_key, noise, action.shape[:1])
    if jnp.issubdtype(action.dtype, jnp.floating):
        other = jnp.where(available, jax.random.uniform(action_key, action.shape, minval=-1.0), 0.0)
        return jnp.where(chosen[:, None], other, action)
    other = jax.random.categorical(action_key, jnp.where(available, 0.0, -jnp.inf))
    return jnp.where(chosen, other.astype(action.dtype), action)


def execute_many(environment: InstructedEnvironment, plans: Plan, keys: Key[Array, "N"]) -> Trajectory:
    """Execute every plan, `[P, ...]`, with every key, `[N]`; leading axes `[P, N]`. Pure and jittable."""
    over_keys = jax.vmap(lambda plan, key: execute(environment, plan, key), in_axes=(None, 0))
    return jax.vmap(over_keys, in_axes=(0, None))(plans, keys)

"""Plans executed inside jit: a scan over the episode with one program counter per agent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from leed_jax.environments import reset_env, step_env
from leed_jax.instructions.plan import Plan
from leed_jax.instructions.vocabulary import InstructedEnvironment

Observe = Callable[[Any, Any, "Trajectory", Array], Any]
"""What to keep of a step: a function of the state before and after it, the step itself, and the program counters."""


@struct.dataclass
class Trajectory:
    """One executed episode, padded to the environment's `max_steps`; batches carry leading axes.

    Attributes:
        observation: what each agent saw before its action.
        action: what it was instructed to do, `[*N, T, A]`, or `[*N, T, A, C]` where actions are continuous.
        taken: what it did; the same unless noise disturbed it.
        reward: what it earned for that.
        available_actions: what it could have done.
        active: whether the agent took part in the step; false once it has terminated or the episode is over.
        terminated: whether the step ended the agent's task. An agent whose last active step did not was cut off.
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
    """Execute a plan for one episode.

    Each agent has a program counter of its own. It moves on when the environment says that the instruction is achieved;
    the last instruction stays in force until the episode is over. Pure and jittable.

    Args:
        environment: where to execute; static.
        plan: one plan, without leading axes.
        key: source of the initial state, of the transitions and of the noise; consumed.
        noise: the probability with which an agent's action is replaced by a random available one. What is recorded as
            `action` is still the instructed one, so that demonstrations also show the way back from where the
            instructions alone would never lead (DART: Laskey et al. 2017, arXiv 1703.09327, with uniform noise); the
            rewards are those of the actions that were taken.
        reset_key: source of the initial state, where it is a particular one; not consumed.
    """
    return observe_execution(environment, plan, key, _the_step, noise, reset_key)


def instructions_in_force(
    environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray, reset_key: PRNGKeyArray | None = None
) -> Int[Array, "T A"]:
    """The position of each agent's current instruction at every step; see `execute`. `key` is consumed."""
    return observe_execution(environment, plan, key, _the_counter, reset_key=reset_key)


def _the_step(_state: Any, _next_state: Any, step: Trajectory, _counter: Array) -> Trajectory:
    return step


def _the_counter(_state: Any, _next_state: Any, _step: Trajectory, counter: Array) -> Array:
    return counter


def observe_execution(
    environment: InstructedEnvironment,
    plan: Plan,
    key: PRNGKeyArray,
    observe: Observe,
    noise: Float[Array, ""] | float = 0.0,
    reset_key: PRNGKeyArray | None = None,
) -> Any:
    """Execute a plan for one episode as `execute` does, and keep something of each step.

    Args:
        environment: where to execute; static.
        plan: one plan, without leading axes.
        key: see `execute`; consumed.
        observe: called as `observe(state, next_state, step, counter)`; `step` is a `Trajectory` without the axis `T`.
        noise: see `execute`.
        reset_key: see `execute`.

    Returns:
        What `observe` returned, stacked on a leading axis `T`; steps that are not active are to be ignored.
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
        done = environment.achieved(next_state, command, parameter)
        following = jnp.minimum(counter + done, plan.length - 1)
        step = Trajectory(
            observation=time_step.observation,
            action=action,
            taken=taken,
            reward=next_step.reward,
            available_actions=time_step.available_actions,
            active=active,
            terminated=active & next_step.terminated,
        )
        still_active = active & ~next_step.terminated & ~next_step.episode_over()
        return (next_state, next_step, following, still_active), observe(state, next_state, step, counter)

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
    """Execute every plan from every initial state, in one call; leading axes `[P, N]`. Pure and jittable.

    Args:
        environment: where to execute; static.
        plans: plans stacked on a leading axis `P`.
        keys: one key per episode, `[N]`, the same ones for all plans; consumed.
    """
    over_states = jax.vmap(lambda plan, key: execute(environment, plan, key), in_axes=(None, 0))
    return jax.vmap(over_states, in_axes=(0, None))(plans, keys)


def plan_returns(environment: InstructedEnvironment, plans: Plan, keys: Key[Array, "N"]) -> Float[Array, "P N A"]:
    """The return of each agent under every plan from every initial state, as by `execute_many`."""
    return execute_many(environment, plans, keys).episode_return()

"""Plans executed inside jit: a scan over the episode with one program counter per agent."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from leed_jax.instructions.plan import Plan
from leed_jax.instructions.vocabulary import InstructedEnvironment


@struct.dataclass
class Trajectory:
    """One executed episode, padded to the environment's `max_steps`; batches carry leading axes.

    Attributes:
        observation: what each agent saw before its action.
        action: what it did.
        reward: what it earned for it.
        available_actions: what it could have done.
        active: whether the step belongs to the episode; false once it is over.
    """

    observation: Float[Array, "*N T A O"]
    action: Int[Array, "*N T A"]
    reward: Float[Array, "*N T A"]
    available_actions: Bool[Array, "*N T A C"]
    active: Bool[Array, "*N T"]

    def episode_return(self) -> Float[Array, "*N A"]:
        """The undiscounted return of each agent."""
        return jnp.sum(self.reward * self.active[..., None], axis=-2)


def current_instruction(plan: Plan, counter: Int[Array, "A"]) -> tuple[Int[Array, "A"], Int[Array, "A"]]:
    """The command and the parameter at each agent's program counter."""
    agents = jnp.arange(counter.shape[0])
    return plan.command[agents, counter], plan.parameter[agents, counter]


def execute(
    environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray, noise: Float[Array, ""] | float = 0.0
) -> Trajectory:
    """Execute a plan for one episode.

    Each agent has a program counter of its own. It moves on when the environment says that the instruction is achieved;
    the last instruction stays in force until the episode is over. Pure and jittable.

    Args:
        environment: where to execute; static.
        plan: one plan, without leading axes.
        key: source of the initial state, of the transitions and of the noise; consumed.
        noise: the probability with which an agent's action is replaced by a random available one. What is recorded is
            still the instructed action, so that demonstrations also show the way back from where the instructions alone
            would never lead (DART: Laskey et al. 2017, arXiv 1703.09327, with uniform noise); the rewards are those of
            the actions that were taken.
    """
    return _execute(environment, plan, key, noise)[0]


def instructions_in_force(environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray) -> Int[Array, "T A"]:
    """The position of each agent's current instruction at every step; see `execute`. `key` is consumed."""
    return _execute(environment, plan, key, 0.0)[1]


def _execute(
    environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray, noise: Float[Array, ""] | float
) -> tuple[Trajectory, Int[Array, "T A"]]:
    """Execute a plan; the episode, and the program counters before each step."""
    reset_key, step_key = jax.random.split(key)
    state, time_step = environment.reset(reset_key)

    def advance(carry: Any, key: PRNGKeyArray) -> tuple[Any, tuple[Trajectory, Array]]:
        state, time_step, counter, active = carry
        step_key, noise_key = jax.random.split(key)
        command, parameter = current_instruction(plan, counter)
        action = environment.act(state, command, parameter)
        taken = _disturb(action, time_step.available_actions, noise, noise_key)
        next_state, next_step = environment.step(state, taken, step_key)
        done = environment.achieved(next_state, command, parameter)
        following = jnp.minimum(counter + done, plan.length - 1)
        record = Trajectory(
            observation=time_step.observation,
            action=action,
            reward=next_step.reward,
            available_actions=time_step.available_actions,
            active=active,
        )
        return (next_state, next_step, following, active & ~next_step.episode_over()), (record, counter)

    counter = jnp.zeros(environment.num_agents, jnp.int32)
    start = (state, time_step, counter, jnp.array(True))
    return jax.lax.scan(advance, start, jax.random.split(step_key, environment.max_steps))[1]


def _disturb(
    action: Int[Array, "A"], available: Bool[Array, "A C"], noise: Float[Array, ""] | float, key: PRNGKeyArray
) -> Int[Array, "A"]:
    """Replace each action by a random available one with probability `noise`; `key` is consumed."""
    choice_key, action_key = jax.random.split(key)
    other = jax.random.categorical(action_key, jnp.where(available, 0.0, -jnp.inf))
    return jnp.where(jax.random.bernoulli(choice_key, noise, action.shape), other.astype(action.dtype), action)


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

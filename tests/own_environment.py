"""A small environment of one's own: a template to start from."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from leed_jax import TimeStep

State = tuple[Array, Array]  # positions [A], number of steps


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Agents on a line earn more the nearer they are to each other; an episode has `max_steps` steps."""

    num_agents: int = 2
    max_steps: int = 5

    num_actions = 3  # left, stay, right
    observation_size = 2  # own position, mean position

    def reset(self, key: PRNGKeyArray) -> tuple[State, TimeStep]:
        position = jax.random.uniform(key, (self.num_agents,), minval=-1.0)
        state = (position, jnp.zeros((), jnp.int32))
        return state, TimeStep(self.observe(state), reward=jnp.zeros(self.num_agents))

    def step(self, state: State, action: Int[Array, "A"], key: PRNGKeyArray) -> tuple[State, TimeStep]:
        position, steps = state[0] + 0.2 * (action - 1), state[1] + 1
        reward = -jnp.abs(position - jnp.mean(position))
        truncated = steps >= self.max_steps
        return (position, steps), TimeStep(self.observe((position, steps)), reward, truncated=truncated)

    def observe(self, state: State) -> Array:
        return jnp.stack([state[0], jnp.full(self.num_agents, jnp.mean(state[0]))], axis=-1)

"""Wrappers of environments, and automatic resets."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from leed_jax.environments.protocol import Action, Environment, TimeStep, has_continuous_actions, reset_env, step_env


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """An environment that forwards everything to another one; subclasses change parts of it.

    Attributes:
        environment: the environment to wrap.
    """

    environment: Environment

    @property
    def num_agents(self) -> int:
        """The number of agents, `A`."""
        return self.environment.num_agents

    @property
    def observation_size(self) -> int:
        """The length of one agent's observation, `O`."""
        return self.environment.observation_size

    @property
    def num_actions(self) -> int:
        """The number of actions, or of components of an action, of an agent, `N`."""
        return self.environment.num_actions

    @property
    def max_steps(self) -> int:
        """The largest number of steps of an episode."""
        return self.environment.max_steps

    @property
    def continuous(self) -> bool:
        """Whether actions are continuous."""
        return has_continuous_actions(self.environment)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Start an episode; `key` is consumed."""
        return self.environment.reset(key)

    def step(self, state: Any, action: Action, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Take one action per agent; `key` is consumed."""
        return self.environment.step(state, action, key)


class AutoReset(Wrapper):
    """Starts a new episode in the step that ends one.

    The step that ends an episode returns `reward`, `terminated`, `truncated`, `final_observation` and
    `final_available_actions` of the old episode, with `observation` and `available_actions` of the new one.
    """

    def reset(self, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Start an episode; `key` is consumed."""
        return reset_env(self.environment, key)

    def step(self, state: Any, action: Action, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Take one action per agent and, if that ends the episode, start the next one; `key` is consumed."""
        step_key, reset_key = jax.random.split(key)
        state, time_step = step_env(self.environment, state, action, step_key)
        new_state, new = reset_env(self.environment, reset_key)
        done = time_step.done()

        def choose(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(done, a, b), new, old)

        time_step = dataclasses.replace(
            time_step,
            observation=choose(new.observation, time_step.observation),
            available_actions=choose(new.available_actions, time_step.available_actions),
        )
        return choose(new_state, state), time_step

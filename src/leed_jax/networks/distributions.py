"""Distributions of actions. The only module that knows distrax."""

import distrax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


@struct.dataclass
class Categorical:
    """Distributions over discrete actions.

    Attributes:
        logits: unnormalised log-probabilities; those of unavailable actions are the lowest finite number.
    """

    logits: Float[Array, "*B N"]

    def sample(self, key: PRNGKeyArray) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
        """Draw actions and return them with their log-probabilities; `key` is consumed."""
        action, log_prob = distrax.Categorical(logits=self.logits).sample_and_log_prob(seed=key)
        return action.astype(jnp.int32), log_prob

    def mode(self) -> Int[Array, "*B"]:
        """The most probable action."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "*B"]) -> Float[Array, "*B"]:
        """The log-probability of given actions."""
        return distrax.Categorical(logits=self.logits).log_prob(action)

    def entropy(self) -> Float[Array, "*B"]:
        """The entropy, in nats."""
        return distrax.Categorical(logits=self.logits).entropy()


@struct.dataclass
class Gaussian:
    """Distributions over real vectors with independent components.

    Attributes:
        mean: the means.
        log_std: the logarithms of the standard deviations.
        used: which components exist. The others are padding: they are zero, and left out of every sum.
    """

    mean: Float[Array, "*B N"]
    log_std: Float[Array, "*B N"]
    used: Bool[Array, "*B N"]

    def _components(self) -> distrax.Normal:
        return distrax.Normal(self.mean, jnp.exp(self.log_std))

    def _sum(self, x: Float[Array, "*B N"]) -> Float[Array, "*B"]:
        return jnp.sum(jnp.where(self.used, x, 0.0), axis=-1)

    def sample(self, key: PRNGKeyArray) -> tuple[Float[Array, "*B N"], Float[Array, "*B"]]:
        """Draw actions and return them with their log-densities; `key` is consumed."""
        action, log_prob = self._components().sample_and_log_prob(seed=key)
        return jnp.where(self.used, action, 0.0), self._sum(log_prob)

    def mode(self) -> Float[Array, "*B N"]:
        """The action of the highest density."""
        return jnp.where(self.used, self.mean, 0.0)

    def log_prob(self, action: Float[Array, "*B N"]) -> Float[Array, "*B"]:
        """The log-density of given actions."""
        return self._sum(self._components().log_prob(action))

    def entropy(self) -> Float[Array, "*B"]:
        """The differential entropy, in nats."""
        return self._sum(self._components().entropy())


ActionDistribution = Categorical | Gaussian

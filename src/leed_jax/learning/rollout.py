"""Experience from parallel environments: one scan in which every agent acts on its own policy."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import AutoReset, Environment, TimeStep
from leed_jax.environments.actions import executable
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import InstructedEnvironment, Plan, current_instruction
from leed_jax.networks.policy import ActionDistribution, Memory, Policy, PolicyParameters


@struct.dataclass
class Actors:
    """The environments between two rollouts.

    Attributes:
        environment_state: the environments' states, stacked on a leading axis `E`.
        observation: what each agent acts on next.
        available_actions: what each agent may do next.
        running_return: each agent's return in the episode so far.
        counter: the position of each agent's current instruction, where there are instructions.
        start: whether an episode starts here.
        active: whether each agent takes part in what comes next; false once it has terminated before the others.
        memory: what the networks remember, `[E, A, H]`; None for feed-forward ones.
    """

    environment_state: Any
    observation: Float[Array, "E A O"]
    available_actions: Bool[Array, "E A N"]
    running_return: Float[Array, "E A"]
    counter: Int[Array, "E A"]
    start: Bool[Array, "E"]
    active: Bool[Array, "E A"]
    memory: Memory | None = None


@struct.dataclass
class Rollout:
    """Steps of all agents in all environments.

    Attributes:
        seen: what the agent's actor was given of its observation.
        seen_by_all: what central critics were given; None where there are none.
        available_actions: what it could do.
        action: what it did, `[T, E, A]`, or `[T, E, A, N]` where actions are continuous.
        log_prob: the log-probability of that under the acting policy.
        value: its critic's estimate before the step.
        next_value: its critic's estimate for the state that the step led to, before any reset.
        reward: what it earned.
        terminated: whether nothing follows for it.
        episode_over: whether the step was the last one of the episode.
        episode_return: its return in the episode so far, the step included.
        start: whether the step was the first one of the episode.
        active: whether it took part.
        instructed_action: what its instructions would have had it do; None where there are none.
    """

    seen: Float[Array, "T E A P"]
    seen_by_all: Float[Array, "T E Q"] | None
    available_actions: Bool[Array, "T E A N"]
    action: Array
    log_prob: Float[Array, "T E A"]
    value: Float[Array, "T E A"]
    next_value: Float[Array, "T E A"]
    reward: Float[Array, "T E A"]
    terminated: Bool[Array, "T E A"]
    episode_over: Bool[Array, "T E"]
    episode_return: Float[Array, "T E A"]
    start: Bool[Array, "T E"]
    active: Bool[Array, "T E A"]
    instructed_action: Array | None = None


def start_actors(environment: Environment, key: PRNGKeyArray, num_envs: int, memory: Memory | None = None) -> Actors:
    """Reset `num_envs` environments; `key` is consumed.

    Args:
        environment: what to act in.
        key: source of the initial states.
        num_envs: the number of environments, `E`.
        memory: what the networks remember at the start of an episode; None for feed-forward ones.
    """
    state, time_step = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    return Actors(
        environment_state=state,
        observation=time_step.observation,
        available_actions=time_step.available_actions,
        running_return=jnp.zeros_like(time_step.reward),
        counter=jnp.zeros(time_step.reward.shape, jnp.int32),
        start=jnp.ones(num_envs, bool),
        active=jnp.ones(time_step.reward.shape, bool),
        memory=memory,
    )


def act_all(
    policy: Policy,
    agents: PolicyParameters,
    memory: Float[Array, "E A H"] | None,
    seen: Float[Array, "E A P"],
    available: Bool[Array, "E A N"],
    start: Bool[Array, "E"],
) -> tuple[Float[Array, "E A H"] | None, ActionDistribution]:
    """One step of every agent's actor; the distributions have the shape `[E, A]`.

    Args:
        policy: the networks.
        agents: each agent's parameters, `[A, ...]`, as `Policy.of_agents` gives them.
        memory: what each actor remembers.
        seen: what `Policy.see` gave it.
        available: which actions it may take.
        start: where an episode starts.
    """

    def act(parameters: Any, memory: Any, seen: Array, available: Array) -> tuple[Any, Any]:
        memory, distribution = policy.act(parameters, memory, seen[None], available[None], start[None])
        return memory, jax.tree.map(lambda x: x[0], distribution)

    return jax.vmap(act, in_axes=(0, 1, 1, 1), out_axes=1)(agents, memory, seen, available)


def value_all(
    policy: Policy,
    agents: PolicyParameters,
    memory: Float[Array, "E A H"] | None,
    observation: Float[Array, "E A O"],
    start: Bool[Array, "E"],
) -> tuple[Float[Array, "E A H"] | None, Float[Array, "E A"]]:
    """One step of every agent's critic; see `act_all`."""

    def value(parameters: Any, memory: Any, seen: Array, agent: Array) -> tuple[Any, Array]:
        memory, values = policy.value(parameters, memory, seen[None], start[None], agent)
        return memory, values[0]

    seen = policy.see_all(observation)
    axis, seen = (1, policy.see(observation)) if seen is None else (None, seen)
    return jax.vmap(value, in_axes=(0, 1, axis, 0), out_axes=1)(agents, memory, seen, jnp.arange(policy.num_agents))


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
        parameters: their parameters, stacked over groups.
        actors: where the environments stand.
        key: source of actions and transitions; consumed.
        num_steps: the number of steps, `T`; static.
        plans: plans stacked on a leading axis `P`, for an environment that offers instructions.

    Raises:
        ConfigurationError: there are plans, and the environment offers no instructions.
    """
    ask = None
    if plans is not None:
        ask = _Ask(_instructed(environment.environment), plans, actors.observation.shape[0])
    agents = policy.of_agents(parameters)

    def advance(actors: Actors, key: PRNGKeyArray) -> tuple[Actors, Rollout]:
        return _advance(environment, policy, agents, ask, actors, key)

    return jax.lax.scan(advance, actors, jax.random.split(key, num_steps))


def _advance(
    environment: AutoReset,
    policy: Policy,
    agents: PolicyParameters,
    ask: "_Ask | None",
    actors: Actors,
    key: PRNGKeyArray,
) -> tuple[Actors, Rollout]:
    """One step of all agents in all environments; the record of it has no axis `T`."""
    action_key, step_key = jax.random.split(key)
    seen, acting, evaluating = policy.see(actors.observation), *_parts(actors.memory)
    acting, choice = act_all(policy, agents, acting, seen, actors.available_actions, actors.start)
    action, log_prob = choice.sample(action_key)
    evaluating, value = value_all(policy, agents, evaluating, actors.observation, actors.start)
    state, time_step = jax.vmap(environment.step)(
        actors.environment_state,
        executable(environment, action),
        jax.random.split(step_key, actors.observation.shape[0]),
    )
    over = jax.vmap(lambda step: step.episode_over())(time_step)
    going_on = jnp.zeros_like(over)
    _, next_value = value_all(policy, agents, evaluating, time_step.final_observation, going_on)
    instructed, counter = None, actors.counter
    if ask is not None:
        instructed = ask.action(actors.environment_state, counter)
        counter = jnp.where(over[:, None], 0, ask.following(state, counter))
    episode_return = actors.running_return + jnp.where(actors.active, time_step.reward, 0.0)
    record = Rollout(
        seen=seen,
        seen_by_all=policy.see_all(actors.observation),
        available_actions=actors.available_actions,
        action=action,
        log_prob=log_prob,
        value=value,
        next_value=next_value,
        reward=time_step.reward,
        terminated=time_step.terminated,
        episode_over=over,
        episode_return=episode_return,
        start=actors.start,
        active=actors.active,
        instructed_action=instructed,
    )
    memory = None if acting is None or evaluating is None else Memory(acting, evaluating)
    return _following(record, state, time_step, counter, memory), record


def _following(
    step: Rollout, state: Any, time_step: TimeStep, counter: Int[Array, "E A"], memory: Memory | None
) -> Actors:
    """Where the environments stand after a step, which has no axis `T`, and after the resets that it brought about."""
    over = step.episode_over
    return Actors(
        environment_state=state,
        observation=time_step.observation,
        available_actions=time_step.available_actions,
        running_return=jnp.where(over[:, None], 0.0, step.episode_return),
        counter=counter,
        start=over,
        active=over[:, None] | (step.active & ~step.terminated),
        memory=memory,
    )


def _parts(memory: Memory | None) -> tuple[Any, Any]:
    return (None, None) if memory is None else (memory.actor, memory.critic)


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

    def action(self, state: Any, counter: Int[Array, "E A"]) -> Array:
        """What the current instructions have the agents do."""
        return jax.vmap(self._environment.act)(state, *jax.vmap(current_instruction)(self._plans, counter))

    def following(self, state: Any, counter: Int[Array, "E A"]) -> Int[Array, "E A"]:
        """The counters after a step that led to `state`."""
        done = jax.vmap(self._environment.achieved)(state, *jax.vmap(current_instruction)(self._plans, counter))
        return jnp.minimum(counter + done, self._plans.length - 1)

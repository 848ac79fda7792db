"""Cooperative navigation: agents spread out to cover the landmarks without colliding.

This is `simple_spread` of the Multi-Agent Particle Environment (Lowe et al. 2017, arXiv 1706.02275) as JaxMARL's
`MPE_simple_spread_v3` implements it: the same physics, rewards, order of observations and episode length. JaxMARL's
communication columns, which are always zero, are left out of the observation.

It uses the public API alone, so that it can serve as a template for other environments. Only `reset` and `step` are
required. Instructions, measures and `draw` are optional.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import TimeStep
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Command, Measure, Parameter, Vocabulary

STEP_S = 0.1
DAMPING = 0.25
ACCELERATION = 5.0
AGENT_RADIUS = 0.15
LANDMARK_RADIUS = 0.05
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 0.001

# Distances and the speed at which commands count as done. The arena spans [-1, 1] at the start.
ARRIVED = 0.1
TOUCHING = 2 * AGENT_RADIUS + 0.05
CLEAR = 4 * AGENT_RADIUS
SLOW = 0.05

# The number of landmarks whose distance to each agent `describe_state` gives.
DESCRIBED_LANDMARKS = 8

MOVE_TO, HOLD, KEEP_AWAY = range(3)
ACTION_NAMES = ("stay", "left", "right", "down", "up")
_THRUST = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=np.float32)


@struct.dataclass
class SpreadState:
    """Positions and velocities of `A` agents and positions of `L` landmarks; the last axis is (x, y)."""

    position: Float[Array, "A 2"]
    velocity: Float[Array, "A 2"]
    landmark: Float[Array, "L 2"]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class SimpleSpread:
    """Cooperative navigation with any number of agents and landmarks.

    Attributes:
        num_agents: the number of agents.
        num_landmarks: the number of landmarks; `num_agents` if None.
        local_ratio: the weight of an agent's own collisions in its reward; the shared coverage term has the rest.
        max_steps: the number of steps of an episode, which always ends by this time limit. 26 is JaxMARL's
            `max_steps=25`, which tests for the end before it counts the step.
        observed_agents: the number of nearest agents that an agent observes, nearest first; if None, it observes all,
            in fixed order.
        observed_landmarks: the same for landmarks.
    """

    num_agents: int = 3
    num_landmarks: int | None = None
    local_ratio: float = 0.5
    max_steps: int = 26
    observed_agents: int | None = None
    observed_landmarks: int | None = None

    def __post_init__(self) -> None:
        if self.num_agents < 1 or self.landmarks < 1 or self.max_steps < 1:
            raise ConfigurationError("mpe_spread needs num_agents, num_landmarks and max_steps of at least 1.")
        if not 0.0 <= self.local_ratio <= 1.0:
            raise ConfigurationError(f"mpe_spread: local_ratio={self.local_ratio} is outside 0 to 1.")
        for name, limit in (("observed_agents", self.num_agents - 1), ("observed_landmarks", self.landmarks)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= limit:
                raise ConfigurationError(f"mpe_spread: {name}={value} is outside 0 to {limit}; leave it out for all.")

    @property
    def landmarks(self) -> int:
        """The number of landmarks, `L`."""
        return self.num_agents if self.num_landmarks is None else self.num_landmarks

    @property
    def num_actions(self) -> int:
        """Stay, left, right, down, up."""
        return len(ACTION_NAMES)

    @property
    def observation_size(self) -> int:
        """The length of what `observe` returns for one agent."""
        agents = self.num_agents - 1 if self.observed_agents is None else self.observed_agents
        landmarks = self.landmarks if self.observed_landmarks is None else self.observed_landmarks
        return 4 + 2 * landmarks + 2 * agents

    @property
    def action_names(self) -> tuple[str, ...]:
        """The name of each action."""
        return ACTION_NAMES

    def reset(self, key: PRNGKeyArray) -> tuple[SpreadState, TimeStep]:
        """Place agents, at rest, and landmarks uniformly in the arena; `key` is consumed."""
        agent_key, landmark_key = jax.random.split(key)
        state = SpreadState(
            position=jax.random.uniform(agent_key, (self.num_agents, 2), minval=-1.0, maxval=1.0),
            velocity=jnp.zeros((self.num_agents, 2)),
            landmark=jax.random.uniform(landmark_key, (self.landmarks, 2), minval=-1.0, maxval=1.0),
            step=jnp.zeros((), jnp.int32),
        )
        return state, self._time_step(state, jnp.zeros(self.num_agents))

    def step(self, state: SpreadState, action: Int[Array, "A"], key: PRNGKeyArray) -> tuple[SpreadState, TimeStep]:
        """Move every agent by one step. Transitions are deterministic, so `key` is not used."""
        del key
        force = jnp.asarray(_THRUST)[action] * ACCELERATION + _contact_force(state.position)
        state = SpreadState(
            position=state.position + state.velocity * STEP_S,
            velocity=state.velocity * (1 - DAMPING) + force * STEP_S,
            landmark=state.landmark,
            step=state.step + 1,
        )
        return state, self._time_step(state, self.reward(state))

    def reward(self, state: SpreadState) -> Float[Array, "A"]:
        """Minus an agent's collisions, and minus the distances of the landmarks to their nearest agents; weighted."""
        collisions = jnp.sum(_overlapping(state.position), axis=-1)
        covering = jnp.sum(jnp.min(_distance(state.position, state.landmark), axis=0))
        return -collisions * self.local_ratio - covering * (1 - self.local_ratio)

    def observe(self, state: SpreadState) -> Float[Array, "A O"]:
        """Own velocity, own position, then landmarks and other agents relative to the own position."""
        landmarks = _nearest(state.landmark[None] - state.position[:, None], self.observed_landmarks)
        others = jnp.asarray(_others(self.num_agents))
        relative = state.position[others] - state.position[:, None]
        agents = _nearest(relative, self.observed_agents)
        flat = (x.reshape(self.num_agents, -1) for x in (state.velocity, state.position, landmarks, agents))
        return jnp.concatenate(list(flat), axis=-1)

    def _time_step(self, state: SpreadState, reward: Float[Array, "A"]) -> TimeStep:
        return TimeStep(self.observe(state), reward, truncated=state.step >= self.max_steps)

    # --- instructions -------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Describe the task for the prompt."""
        return (
            f"{self.num_agents} agents move on a flat square arena that holds {self.landmarks} landmarks. "
            "At the start of an episode agents and landmarks are placed at random; landmarks never move. "
            f"An episode has {self.max_steps} steps; crossing the whole arena takes about 12. "
            "At every step the team loses, for each landmark, the distance from it to the agent nearest to it. "
            "An agent also loses when it bumps into another agent. "
            "All rewards are negative, and nearer to zero is better."
        )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Commands `MoveTo`, `Hold` and `KeepAway`, with landmarks, agents and relations as parameters."""
        agents = tuple(f"agent_{i}" for i in range(self.num_agents))
        landmarks = tuple(f"landmark_{i}" for i in range(self.landmarks))
        parameters = (
            *(Parameter(name, "The landmark of that name.") for name in landmarks),
            *(Parameter(name, "The other agent of that name.", frozenset({name})) for name in agents),
            Parameter("nearest_landmark", "Whichever landmark is nearest to the agent at the moment."),
            Parameter(
                "nearest_unclaimed_landmark",
                "A landmark that no other agent has been told to move to or holds on. Those that are left are shared "
                "out among the agents with this parameter, the shortest way first.",
            ),
            Parameter("origin", "The centre of the arena."),
            Parameter("nearest_agent", "Whichever other agent is nearest at the moment."),
            Parameter("until_end", "For the rest of the episode."),
            Parameter("until_clear", f"Until no other agent is within {CLEAR:g}."),
            Parameter("until_slow", "Until the agent has come to rest."),
        )
        places = (*landmarks, "nearest_landmark", "nearest_unclaimed_landmark", "origin")
        others = (*agents, "nearest_agent") if self.num_agents > 1 else ()
        commands = (
            Command(
                "MoveTo",
                "Go there and stay there; done when the agent is there and slow enough to stay.",
                places + others,
            ),
            Command("Hold", "Brake and stand still.", ("until_end", "until_clear", "until_slow")),
            Command("KeepAway", f"Move away from that agent; done at a distance of {CLEAR:g}.", others),
        )
        return Vocabulary(tuple(c for c in commands if c.parameters), parameters, agents)

    def act(self, state: SpreadState, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Int[Array, "A"]:
        """Steer every agent as its instruction says."""
        target = self._target(state, command, parameter)
        away = state.position + _direction(state.position - target)
        far = jnp.linalg.norm(target - state.position, axis=-1, keepdims=True) >= CLEAR
        goal = jnp.where((command == KEEP_AWAY)[:, None] & ~far, away, target)
        stand = (command == HOLD)[:, None] | ((command == KEEP_AWAY)[:, None] & far)
        return jnp.where(stand[:, 0], _brake(state.velocity), _steer(state, goal))

    def achieved(self, state: SpreadState, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Bool[Array, "A"]:
        """Whether each agent has arrived, waited long enough, or got away."""
        target = self._target(state, command, parameter)
        distance = jnp.linalg.norm(target - state.position, axis=-1)
        index = self.vocabulary.parameter_index
        first, last = self.landmarks, self.landmarks + self.num_agents
        is_agent = ((parameter >= first) & (parameter < last)) | (parameter == index["nearest_agent"])
        # An agent that passes a place at speed has not arrived: it would come to rest elsewhere.
        rest = jnp.linalg.norm(target - (state.position + state.velocity * STEP_S / DAMPING), axis=-1)
        arrived = jnp.where(is_agent, distance <= TOUCHING, jnp.maximum(distance, rest) <= ARRIVED)
        clear = jnp.min(_distance_to_others(state.position), axis=-1) >= CLEAR
        slow = jnp.linalg.norm(state.velocity, axis=-1) <= SLOW
        waited = jnp.where(parameter == index["until_clear"], clear, (parameter == index["until_slow"]) & slow)
        return jnp.select([command == MOVE_TO, command == HOLD], [arrived, waited], distance >= CLEAR)

    def _target(self, state: SpreadState, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Float[Array, "A 2"]:
        """The point that each agent's parameter refers to; its own position if there is none."""
        index = self.vocabulary.parameter_index
        distance = _distance(state.position, state.landmark)
        named = (command == MOVE_TO) & (parameter < self.landmarks)
        claimed = jnp.zeros(self.landmarks, bool).at[jnp.where(named, parameter, self.landmarks)].set(True, mode="drop")
        seeking = (command == MOVE_TO) & (parameter == index["nearest_unclaimed_landmark"])
        claimed |= jnp.any((distance <= AGENT_RADIUS) & (command == HOLD)[:, None], axis=0)
        nearest = jnp.argmin(distance, axis=-1)
        unclaimed = _match(distance, seeking, claimed, nearest)
        nearest_agent = jnp.argmin(_distance_to_others(state.position), axis=-1)
        points = jnp.concatenate([state.landmark, state.position, jnp.zeros((1, 2))])
        origin = self.landmarks + self.num_agents
        own = self.landmarks + jnp.arange(self.num_agents)
        choice = jnp.select(
            [
                parameter < origin,
                parameter == index["nearest_landmark"],
                parameter == index["nearest_unclaimed_landmark"],
                parameter == index["origin"],
                parameter == index["nearest_agent"],
            ],
            [parameter, nearest, unclaimed, jnp.full_like(own, origin), self.landmarks + nearest_agent],
            own,
        )
        return points[choice]

    # --- measures and descriptions ----------------------------------------------------------------------------------

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Collisions, uncovered landmarks, and the time until all are covered."""
        return (
            Measure("collisions", "collisions between agents", "sum"),
            Measure("uncovered_landmarks", "landmarks uncovered at the end", "last"),
            Measure("arrival", f"steps until all landmarks are covered ({self.max_steps} if never)", "first"),
        )

    def measure(self, state: SpreadState) -> dict[str, Float[Array, ""]]:
        """Measure one state. A landmark is covered by an agent within `ARRIVED`; collisions count at every step."""
        collisions = jnp.sum(_overlapping(state.position)) / 2
        uncovered = jnp.sum(jnp.min(_distance(state.position, state.landmark), axis=0) > ARRIVED).astype(jnp.float32)
        return {
            "collisions": collisions,
            "uncovered_landmarks": uncovered,
            "arrival": (uncovered == 0).astype(jnp.float32),
        }

    def describe_state(self, state: SpreadState) -> str:
        """Each agent's distances to the landmarks, nearest first, and which landmarks are nearest to several agents."""
        distance = np.asarray(_distance(jnp.asarray(state.position), jnp.asarray(state.landmark)))
        order = np.argsort(distance, axis=-1, kind="stable")
        lines = []
        for agent, landmarks in enumerate(order[:, :DESCRIBED_LANDMARKS]):
            shown = ", ".join(f"{distance[agent, i]:.2f} from landmark_{i}" for i in landmarks)
            lines.append(f"agent_{agent} is {shown}.")
        for landmark in sorted(set(order[:, 0].tolist())):
            rivals = [f"agent_{i}" for i in np.flatnonzero(order[:, 0] == landmark)]
            if len(rivals) > 1:
                lines.append(f"landmark_{landmark} is contested: it is the nearest one to {' and '.join(rivals)}.")
        return "\n".join(lines)

    # --- picture ------------------------------------------------------------------------------------------------

    def draw(self, axes: Any, state: SpreadState) -> None:
        """Draw landmarks as crosses and agents as discs, with their numbers."""
        from matplotlib.patches import Circle  # noqa: PLC0415 - slow to import, and only needed to draw

        axes.set_xlim(-1.4, 1.4)
        axes.set_ylim(-1.4, 1.4)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.scatter(*state.landmark.T, marker="x", s=110, c="#404040", zorder=0)
        for i, (x, y) in enumerate(state.landmark):
            axes.text(x + 0.06, y + 0.06, str(i), color="#404040", fontsize=11, zorder=3)
        for i, (x, y) in enumerate(state.position):
            axes.add_patch(Circle((x, y), AGENT_RADIUS, facecolor=f"C{i % 10}", alpha=0.75))
            axes.text(x, y, str(i), ha="center", va="center", color="white", fontsize=13, zorder=4)

    def positions(self, state: SpreadState) -> Float[np.ndarray, "A 2"]:
        """Where the agents are in the picture, for the trails of animations."""
        return state.position


@functools.cache
def _others(num_agents: int) -> np.ndarray:
    """The indices of all other agents, for each agent: `[A, A-1]`."""
    others = [[j for j in range(num_agents) if j != i] for i in range(num_agents)]
    return np.array(others, np.int32).reshape(num_agents, num_agents - 1)


def _distance(left: Float[Array, "M 2"], right: Float[Array, "N 2"]) -> Float[Array, "M N"]:
    return jnp.linalg.norm(left[:, None] - right[None], axis=-1)


def _distance_to_others(position: Float[Array, "A 2"]) -> Float[Array, "A A"]:
    return jnp.where(jnp.eye(len(position), dtype=bool), jnp.inf, _distance(position, position))


def _overlapping(position: Float[Array, "A 2"]) -> Bool[Array, "A A"]:
    return _distance_to_others(position) < 2 * AGENT_RADIUS


def _contact_force(position: Float[Array, "A 2"]) -> Float[Array, "A 2"]:
    """Repulsion of overlapping agents, by a smoothed penetration depth."""
    delta = position[:, None] - position[None]
    distance = jnp.linalg.norm(delta, axis=-1)
    depth = jnp.logaddexp(0.0, (2 * AGENT_RADIUS - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
    # No force between agents at the same point, which gives no direction, or of an agent on itself.
    scale = jnp.where(distance > 0, CONTACT_FORCE * depth / jnp.where(distance > 0, distance, 1.0), 0.0)
    return jnp.sum(delta * scale[..., None], axis=1)


def _nearest(relative: Float[Array, "A M 2"], count: int | None) -> Float[Array, "A K 2"]:
    """The `count` nearest of each agent's relative positions, nearest first; all in the given order if None."""
    if count is None:
        return relative
    _, order = jax.lax.top_k(-jnp.sum(relative**2, axis=-1), count)
    return jnp.take_along_axis(relative, order[..., None], axis=1)


def _match(
    distance: Float[Array, "A L"], seeking: Bool[Array, "A"], claimed: Bool[Array, "L"], fallback: Int[Array, "A"]
) -> Int[Array, "A"]:
    """Greedily assign unclaimed landmarks to seeking agents, shortest distance first; `fallback` when none is left.

    Each round makes all pairs in which agent and landmark are each other's nearest. These do not affect one another, so
    the result is that of one pair at a time, in fewer rounds. Ties go to the first agent or landmark.
    """
    row, column = jnp.arange(distance.shape[0])[:, None], jnp.arange(distance.shape[1])

    def assign(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        cost, choice = carry
        least = jnp.min(cost, axis=1, keepdims=True)
        # The same as argmin, which XLA computes sequentially on CPUs.
        wanted = jnp.min(jnp.where(cost == least, column, column.size), axis=1, keepdims=True)
        wanting = jnp.min(jnp.where(cost == jnp.min(cost, axis=0), row, row.size), axis=0)
        pair = (wanted == column) & (wanting == row) & jnp.isfinite(least)
        agent, landmark = jnp.any(pair, axis=1), jnp.any(pair, axis=0)
        return jnp.where(agent[:, None] | landmark, jnp.inf, cost), jnp.where(agent, wanted[:, 0], choice)

    cost = jnp.where(seeking[:, None] & ~claimed, distance, jnp.inf)
    return jax.lax.while_loop(lambda carry: jnp.any(jnp.isfinite(carry[0])), assign, (cost, fallback))[1]


def _direction(vector: Float[Array, "A 2"]) -> Float[Array, "A 2"]:
    length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    return jnp.where(length > 0, vector / jnp.where(length > 0, length, 1.0), jnp.array([1.0, 0.0]))


def _brake(velocity: Float[Array, "A 2"]) -> Int[Array, "A"]:
    """Thrust against the larger component v of the velocity if that slows the agent more than damping alone.

    That is, if |(1-d) v - a dt| < (1-d) |v|; otherwise the agent would oscillate.
    """
    return _thrust(-velocity, ACCELERATION * STEP_S / (2 * (1 - DAMPING)))


def _thrust(wanted: Float[Array, "A 2"], least: float) -> Int[Array, "A"]:
    """The action along the larger component of a vector; `stay` if that is at most `least`."""
    axis = jnp.argmax(jnp.abs(wanted), axis=-1)
    along = jnp.take_along_axis(wanted, axis[:, None], axis=-1)[:, 0]
    return jnp.where(jnp.abs(along) > least, 1 + 2 * axis + (along > 0), 0).astype(jnp.int32)


def _steer(state: SpreadState, goal: Float[Array, "A 2"]) -> Int[Array, "A"]:
    """Thrust along the axis with the larger error between the goal and the position in three steps.

    Looking ahead brakes in time: without thrust, velocity v covers v dt (1 + (1-d) + (1-d)^2) in three steps. Errors of
    less than half the effect of one thrust, a dt^2, are ignored.
    """
    drift = STEP_S * sum((1 - DAMPING) ** i for i in range(3))
    error = goal - (state.position + state.velocity * drift)
    return _thrust(error, ACCELERATION * STEP_S**2 / 2)

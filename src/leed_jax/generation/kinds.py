"""The two kinds of plan behind one protocol: the loop is the same for both."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int

from leed_jax.config import GenerationConfig, LLMConfig
from leed_jax.generation.candidates import Candidate, Question
from leed_jax.generation.feedback import Baseline
from leed_jax.generation.prompt import head_messages
from leed_jax.generation.scoring import Scorer
from leed_jax.generation.template import Template
from leed_jax.instructions import InstructedEnvironment
from leed_jax.learning.episodes import measured_play, random_actor
from leed_jax.llm import ChatRequest, Message


@dataclasses.dataclass(frozen=True)
class Keys:
    """Independent sources of randomness; the episodes that plans are reported on are not those they are selected on."""

    selection: Any
    report: Any
    control: Any
    random: Any

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """The keys of a generation with this seed; apart from those that the same seed gives elsewhere."""
        return cls(*jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x6E11), 4))


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a generation works on.

    Attributes:
        environment: where plans are executed.
        llm: temperature and length of replies.
        settings: rounds, candidates and episodes.
        template: the prompt's text.
        seed: seed of the requests.
        keys: randomness of the execution.
    """

    environment: InstructedEnvironment
    llm: LLMConfig
    settings: GenerationConfig
    template: Template
    seed: int
    keys: Keys

    @functools.cached_property
    def head(self) -> tuple[Message, ...]:
        """The messages that every request begins with."""
        return head_messages(self.template, self.environment, self.settings.max_instructions)

    def request(self, ask: Message, schema: dict[str, Any], number: int, plans: int = 1) -> ChatRequest:
        """A request with a sampling seed of its own.

        Args:
            ask: the last message.
            schema: the JSON schema of the answer.
            number: the request's number in the whole generation.
            plans: how many plans it asks for.
        """
        messages = (*self.head, ask)
        return ChatRequest(messages, self.llm.temperature, self.seed + number, self.llm.max_tokens * plans, schema)

    def length_of(self, candidate: int) -> int:
        """The longest plan of an agent that a candidate may have: from 1 up to the capacity, and round again."""
        return 1 + candidate % self.settings.max_instructions


def requests_in_round(settings: GenerationConfig) -> int:
    """How many requests a round has."""
    groups = -(-settings.episodes // settings.episodes_per_prompt) if settings.kind == "episodes" else 1
    return groups * settings.candidates


def random_play(
    environment: InstructedEnvironment, key: Any, episodes: int, reset_keys: Any = None
) -> tuple[Float[np.ndarray, "E A"], dict[str, Float[np.ndarray, "E"]]]:
    """Returns and measures of episodes in which every agent picks at random; see `measured_play`."""
    returns, measures = _random_play(environment, key, episodes, reset_keys)
    return np.asarray(returns), {name: np.asarray(values) for name, values in measures.items()}


@functools.partial(jax.jit, static_argnames=("environment", "episodes"))
def _random_play(environment: InstructedEnvironment, key: Any, episodes: int, reset_keys: Any) -> Any:
    return measured_play(environment, random_actor(environment), key, episodes, reset_keys)


class Kind(Protocol):
    """How plans of one kind are asked for, executed and chosen."""

    @property
    def scorer(self) -> Scorer:
        """Executes candidates on the selection episodes."""
        ...

    @property
    def states(self) -> int:
        """The number of initial states that have plans of their own; 0 where a plan is for all."""
        ...

    @property
    def baselines(self) -> Sequence[Baseline]:
        """What random actions come to: for each initial state with plans of its own, or for all."""
        ...

    def questions(self, index: int, candidates: Sequence[Candidate], account: Sequence[str]) -> list[Question]:
        """The requests of a round.

        Args:
            index: the round, from 0.
            candidates: every candidate so far, executed.
            account: what others do well and badly.
        """
        ...

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """What the best plans among these come to, per agent; None if none could be executed."""
        ...

    def asked(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """How many plans were asked for, with a row for each of the `baselines`."""
        ...

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The plans to keep among these, best first."""
        ...

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "A"]]:
        """Mean return of each agent in episodes that played no part in the selection, for each kept plan."""
        ...

"""The two kinds of plan, one for all initial states or one for each: how they are requested, scored and selected."""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from leed_jax.config import GenerateConfig, LLMConfig
from leed_jax.demonstrations import initial_state_keys
from leed_jax.errors import ConfigurationError
from leed_jax.generation.candidates import Candidate, PlanRequest, best_first, distinct_behaviours, episode_name
from leed_jax.generation.feedback import Baseline, baseline_line, plan_lines, problem_lines
from leed_jax.generation.prompts import Template, episodes_schema, head_messages, reply_schema, request_message
from leed_jax.generation.scoring import Control, Scorer, best_of, random_plan_scores, random_play
from leed_jax.instructions import DescribesStates, InstructedEnvironment, offering, stack_plans
from leed_jax.llm import ChatRequest, Message
from leed_jax.report.animation import as_numpy

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Keys:
    """Independent sources of randomness; plans are reported on other episodes than they are selected on."""

    selection: Any
    report: Any
    control: Any
    random: Any

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """The keys of a generation with this seed."""
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
    settings: GenerateConfig
    template: Template
    seed: int
    keys: Keys

    @functools.cached_property
    def head(self) -> tuple[Message, ...]:
        """The messages that every request begins with."""
        return head_messages(self.template, self.environment, self.settings.max_instructions)

    def request(self, message: Message, schema: dict[str, Any], number: int, plans: int = 1) -> ChatRequest:
        """Request number `number` of the whole generation, for so many plans, with a sampling seed of its own."""
        messages = (*self.head, message)
        return ChatRequest(messages, self.llm.temperature, self.seed + number, self.llm.max_tokens * plans, schema)

    def length_of(self, candidate: int) -> int:
        """The longest plan of an agent that a candidate may have: 1, 2, ... up to the capacity, in turn."""
        return 1 + candidate % self.settings.max_instructions


def requests_in_round(settings: GenerateConfig) -> int:
    """The number of requests in a round."""
    groups = -(-settings.episodes // settings.episodes_per_prompt) if settings.kind == "episodes" else 1
    return groups * settings.candidates


class PlanKind(abc.ABC):
    """How plans of one kind are requested, executed and selected.

    Attributes:
        states: the number of initial states that have plans of their own; 0 where a plan is for all.
        scorer: executes candidates on the selection episodes.
    """

    states: int
    scorer: Scorer

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    @abc.abstractmethod
    def baselines(self) -> Sequence[Baseline]:
        """The result of random actions, in each initial state that has plans of its own or in all."""

    @abc.abstractmethod
    def requests(
        self, index: int, candidates: Sequence[Candidate], learner_feedback: Sequence[str]
    ) -> list[PlanRequest]:
        """The requests of round `index`, given every executed candidate so far and sentences on learners."""

    @abc.abstractmethod
    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """The return per agent of the best plans among these; None if none could be executed."""

    @abc.abstractmethod
    def requested(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """The number of plans that were asked for, a row for each of the `baselines`."""

    @abc.abstractmethod
    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The plans to keep among these, best first."""

    @abc.abstractmethod
    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "N A"]]:
        """Returns of each kept plan in episodes that played no part in the selection."""

    def control(self, asked: Sequence[Candidate]) -> Control:
        """The best of as many random valid plans as the model was asked for."""
        fallback = np.array([baseline.score for baseline in self.baselines])
        return best_of(self._random_scores, self.requested(asked), fallback)

    @functools.cached_property
    def _random_scores(self) -> Float[np.ndarray, "R M"]:
        settings = self._task.settings
        return random_plan_scores(
            self._task.environment.vocabulary,
            self.scorer,
            self._task.keys.control,
            max_instructions=settings.max_instructions,
            candidates=settings.candidates,
            count=settings.control_plans,
            states=self.states,
        )


class Relational(PlanKind):
    """One plan for all initial states, selected by its mean return over held-out ones."""

    states = 0

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        keys = jax.random.split(task.keys.selection, task.settings.selection_episodes)
        self.scorer = Scorer(task.environment, keys, task.settings.candidates)

    @functools.cached_property
    def baselines(self) -> tuple[Baseline]:
        """The result of random actions."""
        task = self._task
        returns, measures = random_play(task.environment, task.keys.random, task.settings.report_episodes)
        figures = {name: float(np.mean(values)) for name, values in measures.items()}
        return (Baseline(np.mean(returns, axis=0), figures),)

    def requests(
        self, index: int, candidates: Sequence[Candidate], learner_feedback: Sequence[str]
    ) -> list[PlanRequest]:
        """One prompt, with a sampling seed and a plan length for each request."""
        task = self._task
        vocabulary, count, template = task.environment.vocabulary, task.settings.candidates, task.template
        feedback = self._feedback(candidates) if candidates else []
        requests = []
        for i in range(count):
            length = task.length_of(i)
            message = request_message(template, vocabulary.agents, length, feedback, learner_feedback)
            schema = reply_schema(vocabulary, length, task.settings.constrained, template.offers_all_agents)
            requests.append(PlanRequest(task.request(message, schema, index * count + i)))
        return requests

    def _feedback(self, candidates: Sequence[Candidate]) -> list[str]:
        environment, baseline = self._task.environment, self.baselines[0]
        plans = plan_lines(environment, candidates, baseline, all_agents=self._task.template.offers_all_agents)
        return [baseline_line(environment, baseline), *plans, *problem_lines(environment.vocabulary.agents, candidates)]

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """The best plan's return."""
        return next((c.score for c in best_first(candidates)), None)

    def requested(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """The number of candidates."""
        return np.array([len(candidates)])

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The best plans that behave differently."""
        return distinct_behaviours(candidates, self._task.settings.keep)

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "N A"]]:
        """Executed on fresh initial states."""
        plans = [c.plan for c in kept if c.plan is not None]
        if not plans:
            return []
        task = self._task
        keys = jax.random.split(task.keys.report, task.settings.report_episodes)
        return [r.returns for r in Scorer(task.environment, keys, task.settings.keep).results(stack_plans(plans))]


class PerEpisode(PlanKind):
    """A plan for each of some initial states, which are described to the model, several in a prompt.

    Each state keeps the plan, of all candidates in all rounds, with the highest return in that very state, and so does
    the control. Figures of this kind say nothing about other states.

    Args:
        task: what the generation works on.
        states_seed: seed of the initial states.

    Raises:
        ConfigurationError: the environment cannot describe a state.
    """

    def __init__(self, task: Task, states_seed: int) -> None:
        super().__init__(task)
        settings = task.settings
        describer = offering(task.environment, DescribesStates)  # type: ignore[type-abstract]
        if describer is None:
            name = type(getattr(task.environment, "environment", task.environment)).__name__
            raise ConfigurationError(
                f"generate.kind=episodes: {name} cannot describe an initial state to a model; give it a method "
                "describe_state(state) -> str, or use generate.kind=relational."
            )
        self.states = settings.episodes
        self._initial = initial_state_keys(states_seed, self.states)
        self.scorer = self._scorer(task.keys.selection, settings.selection_episodes, settings.candidates * self.states)
        states = as_numpy(jax.jit(jax.vmap(lambda key: task.environment.reset(key)[0]))(self._initial))
        self._facts = [describer.describe_state(jax.tree.map(lambda x, i=i: x[i], states)) for i in range(self.states)]

    def _scorer(self, key: jax.Array, episodes: int, batch: int) -> Scorer:
        """A scorer with an equal part of the episodes, at least one, for each initial state."""
        keys = jax.random.split(key, max(1, episodes // self.states))
        return Scorer(self._task.environment, keys, batch, self._initial)

    @functools.cached_property
    def baselines(self) -> tuple[Baseline, ...]:
        """The result of random actions in each initial state."""
        task = self._task
        repeats = max(1, task.settings.report_episodes // self.states)
        reset_keys = jnp.repeat(self._initial, repeats, axis=0)
        returns, measures = random_play(task.environment, task.keys.random, len(reset_keys), reset_keys)
        by_agent = np.mean(returns.reshape(self.states, repeats, -1), axis=1)
        figures = {name: np.mean(x.reshape(self.states, repeats), axis=1) for name, x in measures.items()}
        return tuple(
            Baseline(by_agent[i], {name: float(x[i]) for name, x in figures.items()}) for i in range(self.states)
        )

    def requests(
        self, index: int, candidates: Sequence[Candidate], learner_feedback: Sequence[str]
    ) -> list[PlanRequest]:
        """For each group of initial states as many requests as there are candidates."""
        task = self._task
        size, count = task.settings.episodes_per_prompt, task.settings.candidates
        vocabulary = task.environment.vocabulary
        groups = [tuple(range(i, min(i + size, self.states))) for i in range(0, self.states, size)]
        requests = []
        for number, group in enumerate(groups):
            earlier = [c for c in candidates if c.episode in group]
            texts = {episode_name(e): self._describe(e, earlier) for e in group}
            problems = problem_lines(vocabulary.agents, earlier)
            for i in range(count):
                length = task.length_of(i)
                message = request_message(task.template, vocabulary.agents, length, problems, learner_feedback, texts)
                schema = episodes_schema(vocabulary, length, list(texts), task.settings.constrained)
                place = (index * len(groups) + number) * count + i
                requests.append(PlanRequest(task.request(message, schema, place, plans=len(texts)), group))
        return requests

    def _describe(self, episode: int, candidates: Sequence[Candidate]) -> str:
        """The facts about an initial state, and the results of earlier plans for it."""
        facts, earlier = self._facts[episode], [c for c in candidates if c.episode == episode]
        if not best_first(earlier):
            return facts
        baseline = self.baselines[episode]
        lines = plan_lines(self._task.environment, earlier, baseline, best=_SHOWN, others=0)
        scale = f"Earlier plans for {episode_name(episode)}, where random actions earn {baseline.score:.2f} per agent:"
        return "\n".join([facts, "", scale, "", *lines])

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """The mean over initial states of the best plan's return; a state without a plan counts as random actions."""
        best = {c.episode: c.score for c in self.kept(candidates)}
        if not best:
            return None
        return float(np.mean([best.get(i, baseline.score) for i, baseline in enumerate(self.baselines)]))

    def requested(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """The number of candidates for each initial state."""
        return np.bincount([c.episode for c in candidates if c.episode is not None], minlength=self.states)

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Each initial state's best plan, the one with the highest return first."""
        best: dict[int | None, Candidate] = {}
        for candidate in best_first(candidates):
            best.setdefault(candidate.episode, candidate)
        return list(best.values())

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "N A"]]:
        """Executed again from their own initial states, with fresh transitions."""
        plans = [c.plan for c in kept if c.plan is not None]
        if not plans:
            return []
        states = [c.episode for c in kept if c.episode is not None]
        scorer = self._scorer(self._task.keys.report, self._task.settings.report_episodes, self.states)
        return [result.returns for result in scorer.results(stack_plans(plans), states)]


def make_kind(task: Task, states_seed: int | None) -> PlanKind:
    """The kind of plan that the settings ask for.

    Args:
        task: what the generation works on.
        states_seed: with kind=episodes, seed of the initial states; else None.
    """
    return Relational(task) if states_seed is None else PerEpisode(task, states_seed)

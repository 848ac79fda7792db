"""How plans are requested, scored and selected: one for all initial states, or one for each of some."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from leed_jax.config import GenerationConfig, LLMConfig
from leed_jax.demonstrations import initial_state_keys
from leed_jax.errors import ConfigurationError
from leed_jax.generation.candidates import Candidate, PlanRequest, best_first, distinct_behaviours, episode_name
from leed_jax.generation.feedback import Baseline, baseline_line, plan_lines, problem_lines
from leed_jax.generation.prompts import episodes_schema, head_messages, load_template, reply_schema, request_message
from leed_jax.generation.scoring import Control, Scorer, best_of, random_plan_scores, random_play
from leed_jax.instructions import DescribesStates, InstructedEnvironment, offering, stack_plans
from leed_jax.llm import ChatRequest, Message
from leed_jax.report.animation import as_numpy

_SHOWN = 3


def requests_in_round(settings: GenerationConfig) -> int:
    """The number of requests in a round."""
    groups = -(-settings.episodes // settings.episodes_per_prompt) if settings.kind == "episodes" else 1
    return groups * settings.candidates


class Planner:
    """Requests, scores and selects plans.

    With kind=relational a plan is for all initial states, and the best ones by mean return that behave differently are
    kept. With kind=episodes each of some initial states, which are described to the model, keeps the plan with the
    highest return in that very state, and so does the control; these figures say nothing about other states.

    Args:
        environment: where plans are executed.
        llm: temperature and length of replies.
        settings: rounds, candidates and episodes.
        seed: seed of the requests and of the execution.
        states_seed: with kind=episodes, seed of the initial states; else None.

    Attributes:
        template: the prompt's text.
        states: the initial states that have plans of their own, by number; (None,) where a plan is for all.
        scorer: executes candidates on the selection episodes.

    Raises:
        ConfigurationError: the prompt template cannot be used, or the environment cannot describe a state.
    """

    def __init__(
        self,
        environment: InstructedEnvironment,
        llm: LLMConfig,
        settings: GenerationConfig,
        seed: int,
        states_seed: int | None,
    ) -> None:
        self._environment, self._llm, self._settings, self._seed = environment, llm, settings, seed
        # Plans are reported on other episodes than they are selected on.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x6E11), 4)
        selection, self._report_key, self._control_key, self._random_key = keys
        self.template = load_template(settings.prompt, settings.kind)
        self._per_state = states_seed is not None
        self.states: tuple[int | None, ...] = tuple(range(settings.episodes)) if self._per_state else (None,)
        self._initial = None if states_seed is None else initial_state_keys(states_seed, settings.episodes)
        batch = settings.candidates * len(self.states)
        self.scorer = self._scorer(selection, settings.selection_episodes, batch)
        self._facts = self._describe_states() if self._per_state else []

    def _scorer(self, key: Any, episodes: int, batch: int) -> Scorer:
        """A scorer with an equal part of the episodes, at least one, for each initial state."""
        keys = jax.random.split(key, max(1, episodes // len(self.states)))
        return Scorer(self._environment, keys, batch, self._initial)

    def _describe_states(self) -> list[str]:
        environment = self._environment
        describer = offering(environment, DescribesStates)  # type: ignore[type-abstract]
        if describer is None:
            name = type(getattr(environment, "environment", environment)).__name__
            raise ConfigurationError(
                f"generate.kind=episodes: {name} cannot describe an initial state to a model; give it a method "
                "describe_state(state) -> str, or use generate.kind=relational."
            )
        states = as_numpy(jax.jit(jax.vmap(lambda key: environment.reset(key)[0]))(self._initial))
        return [describer.describe_state(jax.tree.map(lambda x, i=i: x[i], states)) for i in range(len(self.states))]

    @functools.cached_property
    def baselines(self) -> list[Baseline]:
        """The result of random actions, for each of `states`."""
        rows = len(self.states)
        repeats = max(1, self._settings.report_episodes // rows)
        reset_keys = None if self._initial is None else jnp.repeat(self._initial, repeats, axis=0)
        returns, measures = random_play(self._environment, self._random_key, rows * repeats, reset_keys)
        by_agent = np.mean(returns.reshape(rows, repeats, -1), axis=1)
        figures = {name: np.mean(x.reshape(rows, repeats), axis=1) for name, x in measures.items()}
        return [Baseline(by_agent[i], {name: float(x[i]) for name, x in figures.items()}) for i in range(rows)]

    def requests(
        self, index: int, candidates: Sequence[Candidate], learner_feedback: Sequence[str] = ()
    ) -> list[PlanRequest]:
        """The requests of a round: for each group of states as many as there are candidates, with a seed each.

        Args:
            index: the round, from 0.
            candidates: every executed candidate so far.
            learner_feedback: sentences on how other policies do.
        """
        agents, count = self._environment.vocabulary.agents, self._settings.candidates
        size = self._settings.episodes_per_prompt if self._per_state else 1
        groups = [self.states[i : i + size] for i in range(0, len(self.states), size)]
        requests = []
        for number, group in enumerate(groups):
            earlier = [c for c in candidates if c.episode in group]
            texts = {episode_name(e): self._describe(e, earlier) for e in group if e is not None}
            feedback = problem_lines(agents, earlier)
            if not self._per_state and candidates:
                feedback = [*self._plan_feedback(candidates), *feedback]
            for i in range(count):
                length = 1 + i % self._settings.max_instructions
                message = request_message(self.template, agents, length, feedback, learner_feedback, texts)
                schema = self._schema(length, list(texts))
                place = (index * len(groups) + number) * count + i
                episodes = tuple(e for e in group if e is not None)
                requests.append(PlanRequest(self._request(message, schema, place, len(group)), episodes))
        return requests

    def _request(self, message: Message, schema: dict[str, Any], number: int, plans: int) -> ChatRequest:
        """Request `number` of the whole generation, for so many plans."""
        tokens = self._llm.max_tokens * plans
        return ChatRequest((*self._head, message), self._llm.temperature, self._seed + number, tokens, schema)

    @functools.cached_property
    def _head(self) -> tuple[Message, ...]:
        return head_messages(self.template, self._environment, self._settings.max_instructions)

    def _schema(self, length: int, names: list[str]) -> dict[str, Any]:
        vocabulary, constrained = self._environment.vocabulary, self._settings.constrained
        if self._per_state:
            return episodes_schema(vocabulary, length, names, constrained)
        return reply_schema(vocabulary, length, constrained, self.template.offers_all_agents)

    def _plan_feedback(self, candidates: Sequence[Candidate]) -> list[str]:
        environment, baseline = self._environment, self.baselines[0]
        plans = plan_lines(environment, candidates, baseline, all_agents=self.template.offers_all_agents)
        return [baseline_line(environment, baseline), *plans]

    def _describe(self, episode: int, candidates: Sequence[Candidate]) -> str:
        """The facts about an initial state, and the results of earlier plans for it."""
        facts, earlier = self._facts[episode], [c for c in candidates if c.episode == episode]
        if not best_first(earlier):
            return facts
        baseline = self.baselines[episode]
        lines = plan_lines(self._environment, earlier, baseline, best=_SHOWN, others=0)
        scale = f"Earlier plans for {episode_name(episode)}, where random actions earn {baseline.score:.2f} per agent:"
        return "\n".join([facts, "", scale, "", *lines])

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """Return per agent of the best plans, None without any; a state without a plan counts as random actions."""
        best = {c.episode: c.score for c in self._best(candidates)}
        if not best:
            return None
        return float(np.mean([best[e] if e in best else self.baselines[i].score for i, e in enumerate(self.states)]))

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The plans to keep, best first."""
        return self._best(candidates) if self._per_state else distinct_behaviours(candidates, self._settings.keep)

    def _best(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Each state's best plan, the one with the highest return first."""
        best: dict[int | None, Candidate] = {}
        for candidate in best_first(candidates):
            best.setdefault(candidate.episode, candidate)
        return list(best.values())

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "N A"]]:
        """Returns of each kept plan in other episodes: from fresh initial states, or again from its own one."""
        plans = [c.plan for c in kept if c.plan is not None]
        if not plans:
            return []
        batch = len(self.states) if self._per_state else self._settings.keep
        scorer = self._scorer(self._report_key, self._settings.report_episodes, batch)
        states = [c.episode for c in kept if c.episode is not None]
        return [result.returns for result in scorer.results(stack_plans(plans), states or None)]

    def control(self, asked: Sequence[Candidate]) -> Control:
        """The best of as many random valid plans as the model was asked for."""
        counts = np.array([sum(c.episode == episode for c in asked) for episode in self.states])
        return best_of(self._random_scores, counts, np.array([baseline.score for baseline in self.baselines]))

    @functools.cached_property
    def _random_scores(self) -> Float[np.ndarray, "R M"]:
        settings = self._settings
        return random_plan_scores(
            self._environment.vocabulary,
            self.scorer,
            self._control_key,
            max_instructions=settings.max_instructions,
            candidates=settings.candidates,
            count=settings.control_plans,
            states=len(self.states) if self._per_state else 0,
        )

"""A plan for each of some concrete initial states: the model is told the facts about each, several to a prompt.

Each state keeps the plan that earned most among all candidates of all rounds, *in that very state*: it is selected on
the state that it is used in, and so is the control. Figures of this kind therefore say what the chosen plans come to in
these states, and nothing about others.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from leed_jax.demonstrations import initial_state_keys
from leed_jax.errors import ConfigurationError
from leed_jax.generation.candidates import Candidate, Question, best_first, episode_name
from leed_jax.generation.feedback import Baseline, plan_lines, problem_lines
from leed_jax.generation.kinds import Task, random_play
from leed_jax.generation.prompt import episodes_schema, request_message
from leed_jax.generation.scoring import Scorer
from leed_jax.instructions import DescribesStates, offering, stack_plans

_SHOWN = 3


class PerEpisode:
    """Plans for one initial state each; see `leed_jax.generation.kinds.Kind`.

    Args:
        task: what the generation works on.
        states_seed: seed of the initial states.

    Raises:
        ConfigurationError: the environment cannot describe a state.
    """

    def __init__(self, task: Task, states_seed: int) -> None:
        self._task = task
        settings = task.settings
        describer = offering(task.environment, DescribesStates)  # type: ignore[type-abstract]
        if describer is None:
            name = type(getattr(task.environment, "environment", task.environment)).__name__
            raise ConfigurationError(
                f"generate.kind=episodes: {name} cannot tell a model how an episode starts; give it a method "
                "describe_state(state) -> str, or use generate.kind=relational."
            )
        self.states = settings.episodes
        self._initial = initial_state_keys(states_seed, self.states)
        self.scorer = self._scorer(task.keys.selection, settings.selection_episodes, settings.candidates * self.states)
        self._facts = self._describe(describer)

    def _scorer(self, key: jax.Array, episodes: int, batch: int) -> Scorer:
        """A scorer whose plans share out so many episodes among the initial states, at least one for each."""
        keys = jax.random.split(key, max(1, episodes // self.states))
        return Scorer(self._task.environment, keys, batch, self._initial)

    def _describe(self, describer: DescribesStates) -> list[str]:
        reset = jax.jit(jax.vmap(lambda key: self._task.environment.reset(key)[0]))
        states = jax.tree.map(_as_numpy, reset(self._initial))
        return [describer.describe_state(jax.tree.map(lambda x, i=i: x[i], states)) for i in range(self.states)]

    @functools.cached_property
    def baselines(self) -> tuple[Baseline, ...]:
        """What random actions come to in each initial state."""
        task = self._task
        repeats = max(1, task.settings.report_episodes // self.states)

        reset_keys = jnp.repeat(self._initial, repeats, axis=0)
        returns, measures = random_play(task.environment, task.keys.random, len(reset_keys), reset_keys)
        by_agent = np.mean(returns.reshape(self.states, repeats, -1), axis=1)
        figures = {name: np.mean(x.reshape(self.states, repeats), axis=1) for name, x in measures.items()}
        return tuple(
            Baseline(by_agent[i], {name: float(x[i]) for name, x in figures.items()}) for i in range(self.states)
        )

    def questions(self, index: int, candidates: Sequence[Candidate], account: Sequence[str]) -> list[Question]:
        """For each group of initial states as many requests as there are candidates."""
        task = self._task
        size, count = task.settings.episodes_per_prompt, task.settings.candidates
        vocabulary = task.environment.vocabulary
        groups = [tuple(range(i, min(i + size, self.states))) for i in range(0, self.states, size)]
        questions = []
        for number, group in enumerate(groups):
            own = [c for c in candidates if c.episode in group]
            told = {episode_name(e): self._told(e, own) for e in group}
            problems = problem_lines(vocabulary.agents, own)
            for i in range(count):
                length = task.length_of(i)
                ask = request_message(task.template, vocabulary.agents, length, problems, account, told)
                schema = episodes_schema(vocabulary, length, list(told), task.settings.constrained)
                place = (index * len(groups) + number) * count + i
                request = task.request(ask, schema, place, plans=len(told))
                questions.append(Question(request, group))
        return questions

    def _told(self, episode: int, candidates: Sequence[Candidate]) -> str:
        """The facts about an initial state, and what came of the plans for it."""
        own = [c for c in candidates if c.episode == episode]
        baseline = self.baselines[episode] if own else None
        lines = [] if baseline is None else plan_lines(self._task.environment, own, baseline, best=_SHOWN, others=0)
        if baseline is None or not lines:
            return self._facts[episode]
        scale = f"Earlier plans for {episode_name(episode)}, where random actions earn {baseline.score:.2f} per agent:"
        return "\n".join([self._facts[episode], "", scale, "", *lines])

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """The mean over initial states of the best plan's return; a state without a plan counts as random actions."""
        best = {c.episode: c.score for c in self._best(candidates)}
        if not best:
            return None
        return float(np.mean([best.get(i, baseline.score) for i, baseline in enumerate(self.baselines)]))

    def asked(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """The number of plans that were asked for, for each initial state."""
        return np.bincount([c.episode for c in candidates if c.episode is not None], minlength=self.states)

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Each initial state's best plan, the one with the highest return first."""
        return best_first(self._best(candidates))

    def _best(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        best: dict[int | None, Candidate] = {}
        for candidate in best_first(candidates):
            best.setdefault(candidate.episode, candidate)
        return list(best.values())

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "A"]]:
        """Executed again from their own initial states, with fresh transitions."""
        plans = [c.plan for c in kept if c.plan is not None]
        if not plans:
            return []
        states = [c.episode for c in kept if c.episode is not None]
        scorer = self._scorer(self._task.keys.report, self._task.settings.report_episodes, self.states)
        return [result.by_agent for result in scorer.results(stack_plans(plans), states)]


def _as_numpy(leaf: jax.Array) -> Any:
    """A leaf as `DescribesStates` promises it; keys have no such form, and stay."""
    return leaf if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)

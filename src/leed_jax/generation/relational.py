"""One plan for all initial states: what it says of the environment in relations is worked out in each episode."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from leed_jax.generation.candidates import Candidate, Question, best_first, distinct_behaviours
from leed_jax.generation.feedback import Baseline, baseline_line, plan_lines, problem_lines
from leed_jax.generation.kinds import Task, random_play
from leed_jax.generation.prompt import reply_schema, request_message
from leed_jax.generation.scoring import Scorer
from leed_jax.instructions import stack_plans


class Relational:
    """Plans that are selected by their mean return over held-out initial states; see `leed_jax.generation.kinds.Kind`.

    Args:
        task: what the generation works on.
    """

    states = 0

    def __init__(self, task: Task) -> None:
        self._task = task
        settings = task.settings
        keys = jax.random.split(task.keys.selection, settings.selection_episodes)
        self.scorer = Scorer(task.environment, keys, settings.candidates)

    @functools.cached_property
    def baselines(self) -> tuple[Baseline]:
        """What random actions come to."""
        task = self._task
        returns, measures = random_play(task.environment, task.keys.random, task.settings.report_episodes)
        figures = {name: float(np.mean(values)) for name, values in measures.items()}
        return (Baseline(np.mean(returns, axis=0), figures),)

    def questions(self, index: int, candidates: Sequence[Candidate], account: Sequence[str]) -> list[Question]:
        """One prompt, and a sampling seed and a plan length of its own for each request."""
        task = self._task
        vocabulary, count = task.environment.vocabulary, task.settings.candidates
        feedback = self._feedback(candidates) if candidates else []
        questions = []
        for i in range(count):
            length = task.length_of(i)
            ask = request_message(task.template, vocabulary.agents, length, feedback, account)
            schema = reply_schema(vocabulary, length, task.settings.constrained, task.template.collective)
            questions.append(Question(task.request(ask, schema, index * count + i)))
        return questions

    def _feedback(self, candidates: Sequence[Candidate]) -> list[str]:
        environment, baseline = self._task.environment, self.baselines[0]
        shown = plan_lines(environment, candidates, baseline, collective=self._task.template.collective)
        return [baseline_line(environment, baseline), *shown, *problem_lines(environment.vocabulary.agents, candidates)]

    def value(self, candidates: Sequence[Candidate]) -> float | None:
        """The best plan's return."""
        return next((c.score for c in best_first(candidates)), None)

    def asked(self, candidates: Sequence[Candidate]) -> Int[np.ndarray, "R"]:
        """The number of candidates."""
        return np.array([len(candidates)])

    def kept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The best plans that behave differently."""
        return distinct_behaviours(candidates, self._task.settings.keep)

    def report(self, kept: Sequence[Candidate]) -> list[Float[np.ndarray, "A"]]:
        """Executed on fresh initial states."""
        plans = [c.plan for c in kept if c.plan is not None]
        if not plans:
            return []
        task = self._task
        keys = jax.random.split(task.keys.report, task.settings.report_episodes)
        return [r.by_agent for r in Scorer(task.environment, keys, task.settings.keep).results(stack_plans(plans))]

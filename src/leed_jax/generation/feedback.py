"""Feedback for the model, in sentences: results of earlier plans, their errors, and how learners compare with them."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from leed_jax.generation.candidates import Candidate, distinct_plans
from leed_jax.generation.prompts import collapse_all_agents, one_line
from leed_jax.instructions import InstructedEnvironment, measure_lines, measures_of, printable, written

BEST = 3
OTHERS = 2
PROBLEMS = 4
MAX_CHARACTERS = 8000
_MIN_SHARE = 0.005
# Differences below this share of the scale are reported as none.
_DIFFERENT = 0.05
_MAX_AGENTS = 8
_MAX_LEARNERS = 6
_MAX_INSTRUCTIONS = 12
_MAX_PROBLEM = 600


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """The result of random actions, the zero of the scale.

    Attributes:
        by_agent: mean return of each agent.
        measures: the mean of each of the environment's measures, by name.
    """

    by_agent: Float[np.ndarray, "A"]
    measures: Mapping[str, float]

    @property
    def score(self) -> float:
        """Mean return per agent."""
        return float(np.mean(self.by_agent))


def baseline_line(environment: InstructedEnvironment, baseline: Baseline) -> str:
    """The result of random actions."""
    return f"- Random actions earn {baseline.score:.2f} per agent.{_happened(environment, baseline.measures)}"


def plan_lines(
    environment: InstructedEnvironment,
    candidates: Sequence[Candidate],
    baseline: Baseline,
    best: int = BEST,
    others: int = OTHERS,
    *,
    all_agents: bool = False,
) -> list[str]:
    """A line for each of the best plans and of the worst others, numbered, best first.

    Args:
        environment: where they were executed.
        candidates: executed candidates for the same initial states.
        baseline: the result of random actions there.
        best: how many of the best to show.
        others: how many of the worst to show.
        all_agents: whether to shorten plans that are the same for every agent.
    """
    plans = distinct_plans(candidates)
    shown = plans[:best] + plans[best:][len(plans[best:]) - others :] if others else plans[:best]
    lines: list[str] = []
    for number, candidate in enumerate(shown, start=1):
        triples = collapse_all_agents(environment.vocabulary, candidate.triples) if all_agents else candidate.triples
        line = _plan_line(environment, number, candidate, shown[0], baseline, json.dumps(triples))
        if lines and sum(map(len, lines)) + len(line) > MAX_CHARACTERS:
            break
        lines.append(line)
    return lines


def problem_lines(agents: Sequence[str], candidates: Sequence[Candidate]) -> list[str]:
    """What was not executable in the latest candidates; the same problem of several agents once."""
    names = re.compile("|".join(map(re.escape, sorted(map(printable, agents), key=len, reverse=True))))
    problems: dict[str, str] = {}
    for problem in (problem for c in reversed(candidates) for problem in c.problems):
        problems.setdefault(names.sub("", problem), problem)
    return [f"- Not executable: {one_line(problem, _MAX_PROBLEM)}" for problem in list(problems.values())[:PROBLEMS]]


def learner_lines(
    environment: InstructedEnvironment,
    learners: Float[np.ndarray, "A"],
    plan: Float[np.ndarray, "A"],
    learner_measures: Mapping[str, float],
    plan_measures: Mapping[str, float],
) -> list[str]:
    """Compare learning agents with the plan that they imitate, by their mean returns and the means of measures."""
    learned, planned = float(np.mean(learners)), float(np.mean(plan))
    lines = [
        f"- Agents are being trained to imitate the best plan and to improve on it. By now they earn {learned:.2f} per "
        f"agent, and the plan earns {planned:.2f}."
    ]
    gaps = learners - plan
    if np.ptp(gaps) > _DIFFERENT * max(abs(planned), abs(learned)):
        agents = environment.vocabulary.agents
        shown = [f"{printable(agents[i])} {gaps[i]:+.2f}" for i in _lowest(gaps, _MAX_LEARNERS)]
        lines.append(f"- Compared with the plan, agent by agent: {', '.join(shown)}.")
    for measure in measures_of(environment):
        a, b = learner_measures[measure.name], plan_measures[measure.name]
        how = "about the same" if abs(a - b) <= _DIFFERENT * max(abs(a), abs(b)) else "more" if a > b else "less"
        lines.append(f"- {measure.sentence}: {a:.2f} for the trained agents, {b:.2f} for the plan ({how}).")
    return lines


def _plan_line(
    environment: InstructedEnvironment,
    number: int,
    candidate: Candidate,
    best: Candidate,
    baseline: Baseline,
    text: str,
) -> str:
    assert candidate.result is not None and best.result is not None  # noqa: S101, PT018 - these have been executed
    result, leader = candidate.result, best.result
    first = candidate is best
    gained = f"{_more(result.score - baseline.score)} than random actions"
    if first:
        compared = f", the best so far, earned {result.score:.2f} per agent, {gained}"
    else:
        behind = _more(result.score - leader.score)
        compared = f" earned {result.score:.2f} per agent, {gained} and {behind} than plan 1"
    figures = result.by_agent if first else result.by_agent - leader.by_agent
    scale = abs(leader.score - baseline.score)
    by_agent = _by_agent(environment.vocabulary.agents, figures, scale, relative=not first)
    shares = [f"{words} {share:.0%}" for words, share in result.usage[:_MAX_INSTRUCTIONS] if share >= _MIN_SHARE]
    return (
        f"- Plan {number}{compared}: {text}{by_agent}"
        f"{_happened(environment, result.measures)} The agents' time went to: {', '.join(shares)}."
    )


def _more(difference: float) -> str:
    return f"{abs(difference):.2f} {'less' if difference < 0 else 'more'}"


def _by_agent(agents: Sequence[str], figures: Float[np.ndarray, "A"], scale: float, relative: bool) -> str:
    """The agents' figures where they differ; of many agents the lowest."""
    if np.ptp(figures) <= _DIFFERENT * scale:
        return ""
    what = "Compared with plan 1, agent by agent" if relative else "Agent by agent"
    what += "" if len(agents) <= _MAX_AGENTS else ", the lowest"
    sign = "+" if relative else ""
    shown = (f"{written(agents[i])} {figures[i]:{sign}.2f}" for i in _lowest(figures, _MAX_AGENTS))
    return f" {what}: {', '.join(shown)}."


def _lowest(figures: Float[np.ndarray, "A"], count: int) -> Sequence[int]:
    """All agents in order, or of more than `count` those with the lowest figures."""
    return range(len(figures)) if len(figures) <= count else np.argsort(figures, kind="stable")[:count].tolist()


def _happened(environment: InstructedEnvironment, measures: Mapping[str, float]) -> str:
    lines = "; ".join(measure_lines(environment, measures))
    return f" What happened: {lines}." if lines else ""

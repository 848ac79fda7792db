"""What the execution of earlier plans showed, in sentences for the model; a person can read them in the transcript."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from leed_jax.generation.candidates import Candidate, distinct_plans
from leed_jax.generation.collective import collected
from leed_jax.generation.prompt import one_line
from leed_jax.instructions import InstructedEnvironment, measure_lines, printable, written

BEST = 3
OTHERS = 2
PROBLEMS = 4
MAX_CHARACTERS = 8000

_MIN_SHARE = 0.005
_DIFFERENT = 0.05
_MAX_AGENTS = 8
_MAX_INSTRUCTIONS = 12
_MAX_PROBLEM = 600


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """What random actions come to: the scale for everything else.

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
    """What random actions come to."""
    return f"- Random actions earn {baseline.score:.2f} per agent.{_happened(environment, baseline.measures)}"


def plan_lines(
    environment: InstructedEnvironment,
    candidates: Sequence[Candidate],
    baseline: Baseline,
    best: int = BEST,
    others: int = OTHERS,
    *,
    collective: bool = False,
) -> list[str]:
    """A line for each of the best plans and of the worst others, numbered, the best first.

    Args:
        environment: where they were executed.
        candidates: executed candidates for the same initial states.
        baseline: what random actions come to there.
        best: how many of the best to tell.
        others: how many of the worst to tell.
        collective: whether to write what all agents have been told as one instruction for all of them.
    """
    plans = distinct_plans(candidates)
    shown = plans[:best] + plans[best:][len(plans[best:]) - others :] if others else plans[:best]
    lines: list[str] = []
    for number, candidate in enumerate(shown, start=1):
        told = collected(environment.vocabulary, candidate.triples) if collective else candidate.triples
        line = _plan_line(environment, number, candidate, shown[0], baseline, json.dumps(told))
        if lines and sum(map(len, lines)) + len(line) > MAX_CHARACTERS:
            break
        lines.append(line)
    return lines


def problem_lines(agents: Sequence[str], candidates: Sequence[Candidate]) -> list[str]:
    """What was not executable of the latest candidates; what is wrong in the same way for several agents, once."""
    names = re.compile("|".join(map(re.escape, sorted(map(printable, agents), key=len, reverse=True))))
    problems: dict[str, str] = {}
    for problem in (problem for c in reversed(candidates) for problem in c.problems):
        problems.setdefault(names.sub("", problem), problem)
    return [f"- Not executable: {one_line(problem, _MAX_PROBLEM)}" for problem in list(problems.values())[:PROBLEMS]]


def _plan_line(
    environment: InstructedEnvironment,
    number: int,
    candidate: Candidate,
    best: Candidate,
    baseline: Baseline,
    text: str,
) -> str:
    assert candidate.result is not None and best.result is not None  # noqa: S101, PT018 - these are executed ones
    result, leader = candidate.result, best.result
    gained = f"{_more(result.score - baseline.score)} than random actions"
    if candidate is best:
        compared = f", the best so far, earned {result.score:.2f} per agent, {gained}"
        figures = result.by_agent
    else:
        compared = (
            f" earned {result.score:.2f} per agent, {gained} and {_more(result.score - leader.score)} than plan 1"
        )
        figures = result.by_agent - leader.by_agent
    scale = abs(leader.score - baseline.score)
    by_agent = _by_agent(environment.vocabulary.agents, figures, scale, against=candidate is not best)
    shares = [f"{words} {share:.0%}" for words, share in result.usage[:_MAX_INSTRUCTIONS] if share >= _MIN_SHARE]
    return (
        f"- Plan {number}{compared}: {text}{by_agent}"
        f"{_happened(environment, result.measures)} The agents' time went to: {', '.join(shares)}."
    )


def _more(difference: float) -> str:
    return f"{abs(difference):.2f} {'less' if difference < 0 else 'more'}"


def _by_agent(agents: Sequence[str], figures: Float[np.ndarray, "A"], scale: float, against: bool) -> str:
    """The agents' own figures where they differ; where there are many, the lowest ones."""
    if np.ptp(figures) <= _DIFFERENT * scale:
        return ""
    chosen = range(len(agents)) if len(agents) <= _MAX_AGENTS else np.argsort(figures, kind="stable")[:_MAX_AGENTS]
    what = "Compared with plan 1, agent by agent" if against else "Agent by agent"
    what += "" if len(agents) <= _MAX_AGENTS else ", the lowest"
    sign = "+" if against else ""
    return f" {what}: {', '.join(f'{written(agents[i])} {figures[i]:{sign}.2f}' for i in chosen)}."


def _happened(environment: InstructedEnvironment, measures: Mapping[str, float]) -> str:
    told = "; ".join(measure_lines(environment, measures))
    return f" What happened: {told}." if told else ""

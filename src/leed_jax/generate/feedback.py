"""What the execution of earlier plans showed, in sentences for the model."""

import json
from collections.abc import Sequence

from leed_jax.generate.candidates import Candidate, Scorer, distinct_by_score
from leed_jax.instructions import Vocabulary

_BEST = 3
_OTHERS = 2
_PROBLEMS = 4
_MIN_SHARE = 0.005


def feedback_lines(
    vocabulary: Vocabulary, candidates: Sequence[Candidate], scorer: Scorer, random_return: float
) -> list[str]:
    """Sentences on the best plans, some worse ones, and what was not executable.

    Args:
        vocabulary: the environment's words.
        candidates: every candidate so far, scored.
        scorer: tells how long each instruction was in force.
        random_return: the mean return per agent of random actions, for scale.
    """
    lines = [f"- Random actions earn {random_return:.2f} per agent."]
    plans = distinct_by_score(candidates)
    shown = plans[:_BEST] + plans[_BEST:][-_OTHERS:]
    lines += [_plan_line(vocabulary, candidate, scorer) for candidate in shown]
    problems = list(dict.fromkeys(problem for c in reversed(candidates) for problem in c.problems))
    lines += [f"- Not executable: {problem}" for problem in problems[:_PROBLEMS]]
    return lines


def _plan_line(vocabulary: Vocabulary, candidate: Candidate, scorer: Scorer) -> str:
    assert candidate.plan is not None  # noqa: S101 - distinct_by_score yields executable candidates only
    shares = [
        f"{vocabulary.commands[c].name} {vocabulary.parameters[p].name} {share:.0%}"
        for (c, p), share in scorer.usage(candidate.plan).items()
        if share >= _MIN_SHARE
    ]
    return (
        f"- This plan earned {candidate.score:.2f} per agent: {json.dumps(candidate.triples)} "
        f"The agents' time went to: {', '.join(shares)}."
    )

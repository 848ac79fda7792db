"""What learners do well and badly beside their expert, in sentences for the model that instructs it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from leed_jax.instructions import InstructedEnvironment
from leed_jax.instructions.measures import measures_of
from leed_jax.instructions.parse import printable

MAX_AGENTS = 6
# Differences below this share of the larger figure are told as none.
_ALIKE = 0.05


def learners_account(
    environment: InstructedEnvironment,
    learners: Float[np.ndarray, "A"],
    expert: Float[np.ndarray, "A"],
    learners_measures: Mapping[str, float],
    expert_measures: Mapping[str, float],
) -> list[str]:
    """Compare learners with the plan that they imitate.

    Args:
        environment: where both acted.
        learners: each learning agent's mean return.
        expert: each agent's mean return under the plan.
        learners_measures: the means of the environment's measures for the learners, by name.
        expert_measures: the same for the plan.
    """
    own, its = float(np.mean(learners)), float(np.mean(expert))
    lines = [
        f"- Agents are being trained to imitate the best plan and to improve on it. By now they earn {own:.2f} per "
        f"agent, and the plan earns {its:.2f}."
    ]
    gaps = learners - expert
    if np.ptp(gaps) > _ALIKE * max(abs(its), abs(own)):
        lines.append(f"- Compared with the plan, agent by agent: {_by_agent(environment.vocabulary.agents, gaps)}.")
    for measure in measures_of(environment):
        a, b = learners_measures[measure.name], expert_measures[measure.name]
        how = "about the same" if abs(a - b) <= _ALIKE * max(abs(a), abs(b)) else f"{'more' if a > b else 'less'}"
        lines.append(f"- {measure.sentence}: {a:.2f} for the trained agents, {b:.2f} for the plan ({how}).")
    return lines


def _by_agent(agents: Sequence[str], gaps: Float[np.ndarray, "A"]) -> str:
    """Each agent's gap; where there are many agents, the lowest ones."""
    order = np.arange(len(agents)) if len(agents) <= MAX_AGENTS else np.argsort(gaps, kind="stable")[:MAX_AGENTS]
    return ", ".join(f"{printable(agents[i])} {gaps[i]:+.2f}" for i in order)

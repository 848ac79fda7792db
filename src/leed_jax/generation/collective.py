"""A name that stands for every agent, so that a plan for a large team can be as short as one for a small team.

A prompt template may tell of it, as `plan_teams_v1` does. What it stands for is put in its place as soon as a reply is
read: plans, transcripts and sets have the agents' own names alone.
"""

from collections.abc import Sequence

from leed_jax.errors import InstructionError, PlanShapeError
from leed_jax.instructions import Triple, Vocabulary

ALL_AGENTS = "all_agents"


def expanded(
    vocabulary: Vocabulary, triples: Sequence[Triple], max_instructions: int
) -> list[Triple] | InstructionError:
    """The triples with one for each agent in place of one for all of them.

    Args:
        vocabulary: the environment's words; where an agent is called `all_agents`, it is meant alone.
        triples: what a reply says.
        max_instructions: the largest number of instructions of an agent.

    Returns:
        The triples, in order; or an error if there are more for all agents than an agent may have.
    """
    if ALL_AGENTS in vocabulary.agent_index:
        return list(triples)
    if sum(agent == ALL_AGENTS for _, _, agent in triples) > max_instructions:
        return PlanShapeError(f"More than {max_instructions} instructions for {ALL_AGENTS}; write fewer.")
    named = {ALL_AGENTS: vocabulary.agents}
    return [(command, parameter, one) for command, parameter, agent in triples for one in named.get(agent, (agent,))]


def collected(vocabulary: Vocabulary, triples: Sequence[Triple]) -> list[Triple]:
    """The other way round: a plan that gives every agent the same, written with `all_agents`; any other as it is.

    Args:
        vocabulary: the environment's words.
        triples: a plan's triples.
    """
    own: dict[str, list[tuple[str, str]]] = {agent: [] for agent in vocabulary.agents}
    for command, parameter, agent in triples:
        own[agent].append((command, parameter))
    first = own[vocabulary.agents[0]]
    if ALL_AGENTS in own or any(instructions != first for instructions in own.values()):
        return list(triples)
    return [(command, parameter, ALL_AGENTS) for command, parameter in first]

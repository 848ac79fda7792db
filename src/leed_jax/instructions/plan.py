"""Plans: validated instructions as integer arrays, which jitted code executes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray

from leed_jax.errors import InstructionError, PlanShapeError
from leed_jax.instructions.parse import Instruction, Triple, validate
from leed_jax.instructions.vocabulary import Vocabulary, written


@struct.dataclass
class Plan:
    """Up to `K` instructions for each agent; entries past an agent's `length` are padding."""

    command: Int[Array, "*P A K"]
    parameter: Int[Array, "*P A K"]
    length: Int[Array, "*P A"]


def compile_plan(vocabulary: Vocabulary, instructions: Sequence[Instruction], max_length: int) -> Plan:
    """Turn validated instructions into a plan with `K = max_length`; each agent's instructions keep their order.

    Raises:
        PlanShapeError: an agent has no instruction, or more than `max_length`.
    """
    counts = [sum(i.agent == agent for i in instructions) for agent in range(len(vocabulary.agents))]
    idle = ", ".join(written(name) for name, n in zip(vocabulary.agents, counts, strict=True) if n == 0)
    if idle:
        raise PlanShapeError(f"No executable instruction for {idle}; every agent needs at least one.")
    busy = ", ".join(written(name) for name, n in zip(vocabulary.agents, counts, strict=True) if n > max_length)
    if busy:
        raise PlanShapeError(f"More than {max_length} instructions for {busy}; write fewer.")
    shape = (len(vocabulary.agents), max_length)
    command, parameter = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    length = np.zeros(shape[0], np.int32)
    for instruction in instructions:
        slot = instruction.agent, length[instruction.agent]
        command[slot], parameter[slot] = instruction.command, instruction.parameter
        length[instruction.agent] += 1
    return Plan(command=jnp.asarray(command), parameter=jnp.asarray(parameter), length=jnp.asarray(length))


def compile_triples(vocabulary: Vocabulary, triples: Sequence[Triple], max_length: int) -> Plan:
    """Validate triples and turn them into a plan.

    Raises:
        InstructionError: a triple is invalid (the first such error), or an agent has no instruction or too many.
    """
    outcome = validate(vocabulary, triples)
    if outcome.errors:
        raise outcome.errors[0]
    return compile_plan(vocabulary, outcome.instructions, max_length)


def decompile(vocabulary: Vocabulary, plan: Plan) -> list[Triple]:
    """Write a single plan as triples, agent by agent.

    Raises:
        InstructionError: the plan's integers do not belong to this vocabulary.
    """
    command, parameter = np.asarray(plan.command), np.asarray(plan.parameter)
    if command.shape[0] != len(vocabulary.agents):
        raise InstructionError(f"The plan is for {command.shape[0]} agents, and there are {len(vocabulary.agents)}.")
    triples = []
    for agent, length in enumerate(np.asarray(plan.length)):
        for c, p in zip(command[agent, :length].tolist(), parameter[agent, :length].tolist(), strict=True):
            if not (0 <= c < len(vocabulary.commands) and 0 <= p < len(vocabulary.parameters)):
                raise InstructionError(f"The plan has command {c} and parameter {p}, which the environment lacks.")
            triples.append((vocabulary.commands[c].name, vocabulary.parameters[p].name, vocabulary.agents[agent]))
    return triples


def random_plan(
    vocabulary: Vocabulary, key: PRNGKeyArray, max_length: int, longest: Int[Array, ""] | int | None = None
) -> Plan:
    """Draw a random valid plan, as a baseline for a model's plans.

    Each agent's length is uniform on 1 to `longest`; each instruction is uniform over the (command, parameter) pairs
    that are valid for the agent.

    Args:
        vocabulary: the environment's vocabulary.
        key: source of the plan; consumed.
        max_length: the plan's capacity, `K`.
        longest: the largest number of instructions of an agent; `max_length` if None.
    """
    length_key, pair_key = jax.random.split(key)
    allowed = jnp.asarray(vocabulary.allowed)
    agents, _, parameters = allowed.shape
    logits = jnp.where(allowed.reshape(agents, 1, -1), 0.0, -jnp.inf)
    pair = jax.random.categorical(pair_key, logits, axis=-1, shape=(agents, max_length))
    length = jax.random.randint(length_key, (agents,), 1, (max_length if longest is None else longest) + 1)
    return Plan(
        command=(pair // parameters).astype(jnp.int32), parameter=(pair % parameters).astype(jnp.int32), length=length
    )


def stack_plans(plans: Sequence[Plan]) -> Plan:
    """Stack plans of equal capacity on a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *plans)

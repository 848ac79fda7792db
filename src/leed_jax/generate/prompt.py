"""Prompts that build themselves from what an environment declares."""

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from leed_jax.instructions import InstructedEnvironment, Vocabulary
from leed_jax.llm import Message

PROMPT_VERSION = "plan_v1"

# Shown to make the form clear. It comes from no environment of this package, so that nothing can be copied from it.
_FORM = {
    "idea": "Fill the tank first, then let it cool.",
    "instructions": [["Open", "valve_2", "robot_1"], ["Wait", "until_full", "robot_1"], ["Watch", "gauge", "robot_0"]],
}


def system_message() -> Message:
    """What the model is told about its role."""
    return Message("system", "You are a careful planner. You answer with one JSON object and nothing else.")


def task_message(environment: InstructedEnvironment, max_instructions: int) -> Message:
    """Describe the environment, its words and the form of the answer.

    The text depends on the environment alone, so that it is the same at the head of every request and endpoints can
    reuse it.

    Args:
        environment: what to describe.
        max_instructions: the largest number of instructions of an agent.
    """
    template = resources.files("leed_jax.generate").joinpath(f"templates/{PROMPT_VERSION}.md").read_text("utf-8")
    vocabulary = environment.vocabulary
    text = template.format(
        description=environment.describe(),
        agents=", ".join(vocabulary.agents),
        commands=_commands(vocabulary),
        parameters=_parameters(vocabulary),
        max_instructions=max_instructions,
        form=json.dumps(_FORM),
    )
    return Message("user", text.strip())


def _commands(vocabulary: Vocabulary) -> str:
    lines = [f"- {c.name}: {c.meaning} Takes one of: {', '.join(c.parameters)}." for c in vocabulary.commands]
    return "\n".join(lines)


def _parameters(vocabulary: Vocabulary) -> str:
    """One line per meaning; parameters that share it stand on one line."""
    names: dict[str, list[str]] = {}
    for parameter in vocabulary.parameters:
        names.setdefault(parameter.meaning, []).append(parameter.name)
    return "\n".join(f"- {', '.join(group)}: {meaning}" for meaning, group in names.items())


def reply_schema(vocabulary: Vocabulary, max_instructions: int) -> dict[str, Any]:
    """The JSON schema of an answer.

    It bounds the shape and leaves the words free: whether they are executable is for validation to say, on every
    endpoint alike, those included that ignore schemas.

    Args:
        vocabulary: the environment's words.
        max_instructions: the largest number of instructions of an agent.
    """
    agents = len(vocabulary.agents)
    triple = {"type": "array", "items": {"type": "string", "maxLength": 80}, "minItems": 3, "maxItems": 3}
    instructions = {"type": "array", "items": triple, "minItems": agents, "maxItems": agents * max_instructions}
    return {
        "type": "object",
        "properties": {"idea": {"type": "string", "maxLength": 200}, "instructions": instructions},
        "required": ["idea", "instructions"],
        "additionalProperties": False,
    }


def request_message(agents: Sequence[str], feedback: Sequence[str], length: int) -> Message:
    """Ask for one plan, after telling what came of earlier ones.

    Args:
        agents: the agents' names.
        feedback: one line per fact, as `leed_jax.generate.feedback` writes them; empty in the first round.
        length: the number of instructions that this plan may give to an agent. Candidates of a round differ in it, as a
        model
            left alone writes plans of one and the same length.
    """
    parts = []
    if feedback:
        parts += ["Earlier plans were executed. This came of them:\n\n" + "\n".join(feedback)]
        parts += ["Write a plan that is not listed above and earns more than all of those."]
    amount = "exactly one instruction" if length == 1 else f"1 to {length} instructions"
    parts += [f"Write {amount} for each agent, and leave out none of them: {', '.join(agents)}."]
    return Message("user", "\n\n".join([*parts, "Answer with one JSON object."]))

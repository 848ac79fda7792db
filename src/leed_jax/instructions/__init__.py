"""The instruction language: replies are parsed and validated, compiled to integer arrays, and executed inside jit."""

from leed_jax.instructions.execute import (
    Trajectory,
    current_instruction,
    execute,
    execute_many,
    observe_execution,
)
from leed_jax.instructions.measures import (
    DescribesStates,
    Execution,
    Measure,
    Measured,
    episode_measures,
    measure_lines,
    measured_execution,
    measures_of,
    offering,
)
from leed_jax.instructions.parse import (
    Instruction,
    Triple,
    Validation,
    parse_episodes,
    parse_reply,
    printable,
    quoted,
    validate,
)
from leed_jax.instructions.plan import Plan, compile_plan, compile_triples, decompile, random_plan, stack_plans
from leed_jax.instructions.primitive import PrimitiveInstructions
from leed_jax.instructions.vocabulary import Command, InstructedEnvironment, Parameter, Vocabulary, written

__all__ = [
    "Command",
    "DescribesStates",
    "Execution",
    "InstructedEnvironment",
    "Instruction",
    "Measure",
    "Measured",
    "Parameter",
    "Plan",
    "PrimitiveInstructions",
    "Trajectory",
    "Triple",
    "Validation",
    "Vocabulary",
    "compile_plan",
    "compile_triples",
    "current_instruction",
    "decompile",
    "episode_measures",
    "execute",
    "execute_many",
    "measure_lines",
    "measured_execution",
    "measures_of",
    "observe_execution",
    "offering",
    "parse_episodes",
    "parse_reply",
    "printable",
    "quoted",
    "random_plan",
    "stack_plans",
    "validate",
    "written",
]

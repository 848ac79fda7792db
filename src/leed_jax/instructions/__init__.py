"""The instruction language: text triples in, integer arrays out, executed inside jit."""

from leed_jax.instructions.execute import (
    Trajectory,
    current_instruction,
    execute,
    execute_many,
    instructions_in_force,
    plan_returns,
)
from leed_jax.instructions.parse import (
    Instruction,
    Triple,
    Validation,
    check_complete,
    parse_reply,
    printable,
    validate,
)
from leed_jax.instructions.plan import Plan, compile_plan, compile_triples, decompile, random_plan, stack_plans
from leed_jax.instructions.primitive import PrimitiveInstructions
from leed_jax.instructions.vocabulary import Command, InstructedEnvironment, Parameter, Vocabulary

__all__ = [
    "Command",
    "InstructedEnvironment",
    "Instruction",
    "Parameter",
    "Plan",
    "PrimitiveInstructions",
    "Trajectory",
    "Triple",
    "Validation",
    "Vocabulary",
    "check_complete",
    "compile_plan",
    "compile_triples",
    "current_instruction",
    "decompile",
    "execute",
    "execute_many",
    "instructions_in_force",
    "parse_reply",
    "plan_returns",
    "printable",
    "random_plan",
    "stack_plans",
    "validate",
]

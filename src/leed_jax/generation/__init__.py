"""Demonstration generation: a language model writes plans, they are executed, and their results are fed back."""

from leed_jax.generation.loop import Generation, GenerationResult, KeptPlan, Round, generate

__all__ = ["Generation", "GenerationResult", "KeptPlan", "Round", "generate"]

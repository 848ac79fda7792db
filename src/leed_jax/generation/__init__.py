"""Demonstration generation: a language model writes instructions, and their execution is fed back to it."""

from leed_jax.generation.loop import Generation, Kept, Outcome, Round, generate

__all__ = ["Generation", "Kept", "Outcome", "Round", "generate"]

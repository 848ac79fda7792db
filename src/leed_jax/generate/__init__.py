"""Demonstration generation: a language model writes instructions, and their execution is fed back to it."""

from leed_jax.generate.loop import Outcome, Round, generate

__all__ = ["Outcome", "Round", "generate"]

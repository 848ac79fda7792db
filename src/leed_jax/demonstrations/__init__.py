"""Demonstration sets on disk: what a model wrote, what came of it, and the arrays that training consumes.

A set is a folder with

    manifest.json                what it was made for and from, plans, scores, the sha256 of each file and its own
    transcript.jsonl             every prompt and every reply, as they were
    demonstrations.safetensors   executed episodes (or none: plans can be executed again)

Loading verifies all of it before anything is used. Sets that come with leed_jax are found by name.
`python -m leed_jax.demonstrations` lists, shows, verifies, replays and exports them.
"""

from leed_jax.demonstrations.execution import demonstration_key, execute_episodes, initial_state_keys, instructed
from leed_jax.demonstrations.filters import best_episodes, best_plans
from leed_jax.demonstrations.format import ARRAYS, FORMAT, KINDS, MANIFEST, MAX_INSTRUCTIONS, TRANSCRIPT, read_manifest
from leed_jax.demonstrations.loading import (
    find_set,
    load_demonstrations,
    load_verified,
    recorded_sets,
    save_demonstrations,
)
from leed_jax.demonstrations.sets import DemonstrationSet

__all__ = [
    "ARRAYS",
    "FORMAT",
    "KINDS",
    "MANIFEST",
    "MAX_INSTRUCTIONS",
    "TRANSCRIPT",
    "DemonstrationSet",
    "best_episodes",
    "best_plans",
    "demonstration_key",
    "execute_episodes",
    "find_set",
    "initial_state_keys",
    "instructed",
    "load_demonstrations",
    "load_verified",
    "read_manifest",
    "recorded_sets",
    "save_demonstrations",
]

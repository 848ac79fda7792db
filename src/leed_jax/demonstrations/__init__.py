"""Demonstration sets on disk: the plans that a model wrote, their results, and arrays that training consumes.

A set is a folder with

    manifest.json                environment, model, plans, scores, the sha256 of each file and its own
    transcript.jsonl             every prompt and every reply
    demonstrations.safetensors   executed episodes; optional, as plans can be executed again

Loading checks all of it before anything is used. Sets that come with leed_jax are found by name.
`python -m leed_jax.demonstrations` lists, shows, verifies, replays and exports them.
"""

from leed_jax.demonstrations.execution import demonstration_key, execute_episodes, initial_state_keys, instructed
from leed_jax.demonstrations.format import ARRAYS, MANIFEST, TRANSCRIPT, read_manifest
from leed_jax.demonstrations.loading import (
    find_set,
    load_demonstrations,
    load_verified,
    recorded_sets,
    save_demonstrations,
)
from leed_jax.demonstrations.sets import DemonstrationSet, best_episodes, best_plans

__all__ = [
    "ARRAYS",
    "MANIFEST",
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

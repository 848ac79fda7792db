"""Demonstrations as a plain data set for other software: a NumPy archive without pickled objects."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.instructions import Trajectory, printable

LAYOUT = "leed_jax-episodes-1"
ABOUT = """
The file is a NumPy archive without pickled objects: numpy.load(FILE, allow_pickle=False). N episodes are padded to T
steps of A agents:

  observations     float32 [N, T, A, O]  what each agent saw before it acted
  actions          int32   [N, T, A]     what it was instructed to do: the label to imitate
  taken_actions    int32   [N, T, A]     what it did; other than instructed where noise disturbed it
  rewards          float32 [N, T, A]     what it earned for what it did
  action_masks     bool    [N, T, A, C]  which actions were available to it
  active           bool    [N, T, A]     whether it took part in the step; false is padding
  terminations     bool    [N, T, A]     whether the step ended its task
  truncations      bool    [N, T, A]     whether the step was its last for another reason, such as a time limit
  episode_lengths  int32   [N]           steps of each episode
  agents           unicode [A]           the agents' names
  metadata         unicode []            JSON: the environment, the model, the set's sha256, and how it was executed

With --per-agent each agent has its own best episodes, and what stands side by side is no joint episode.
"""


def as_arrays(loaded: DemonstrationSet, episodes: Trajectory, how: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of an exported data set, under their names there.

    Args:
        loaded: the set that they come from.
        episodes: the episodes, `[N, T, ...]`.
        how: how they were chosen and executed, for the metadata.
    """
    active, terminated = np.asarray(episodes.active), np.asarray(episodes.terminated)
    goes_on = np.concatenate([active[:, 1:], np.zeros_like(active[:, :1])], axis=1)
    manifest = loaded.manifest
    names = ("environment", "provider", "model", "kind", "created", "sha256")
    metadata = {"layout": LAYOUT, "execution": dict(how), "set": {name: manifest[name] for name in names}}
    return {
        "observations": np.asarray(episodes.observation),
        "actions": np.asarray(episodes.action),
        "taken_actions": np.asarray(episodes.taken),
        "rewards": np.asarray(episodes.reward),
        "action_masks": np.asarray(episodes.available_actions),
        "active": active,
        "terminations": terminated,
        "truncations": active & ~goes_on & ~terminated,
        "episode_lengths": active.any(axis=-1).sum(axis=1).astype(np.int32),
        "agents": np.array([printable(name) for name in loaded.environment.vocabulary.agents], dtype=np.str_),
        "metadata": np.array(json.dumps(metadata)),
    }


def as_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a NumPy archive."""
    buffer = io.BytesIO()
    # `allow_pickle` came to np.savez with NumPy 2.2; none of these arrays holds objects, which is all that it is about.
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()

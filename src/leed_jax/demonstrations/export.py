"""Demonstrations as a NumPy archive without pickled objects, for other software."""

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
  taken_actions    int32   [N, T, A]     what it did; differs where noise disturbed it
  rewards          float32 [N, T, A]     the reward for what it did
  action_masks     bool    [N, T, A, C]  which actions were available to it
  active           bool    [N, T, A]     whether it took part in the step; false is padding
  terminations     bool    [N, T, A]     whether the step ended its task
  truncations      bool    [N, T, A]     whether the step was its last for another reason, such as a time limit
  episode_lengths  int32   [N]           steps of each episode
  agents           unicode [A]           the agents' names
  metadata         unicode []            JSON: the environment, the model, the set's sha256, and how it was executed

With --per-agent each agent has its own best episodes, so that a row is no joint episode.
"""


def as_arrays(loaded: DemonstrationSet, episodes: Trajectory, how: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of an exported data set, by name.

    Args:
        loaded: the set.
        episodes: its episodes, `[N, T, ...]`.
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
    # No array holds objects, so that nothing is pickled; np.savez has `allow_pickle` only since NumPy 2.2.
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()

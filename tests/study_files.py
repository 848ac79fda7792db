"""Tiny study files."""

from pathlib import Path
from typing import Any

import yaml

SETTINGS = {
    "env.name": "tiny_run:Walk",
    "algorithm": "ippo",
    "num_envs": 4,
    "rollout_steps": 8,
    "updates_per_chunk": 2,
    "total_steps": 256,
    "checkpoint_every": 2,
    "network.hidden_sizes": [8],
    "ppo": {"epochs": 2, "minibatches": 2},
    "evaluation": {"episodes": 256, "curve_episodes": 4},
}
COMPARE = {
    "title": "Slow and fast",
    "description": "Is fast faster?",
    "settings": SETTINGS,
    "seeds": {"first": 7, "count": 1},
    "reference": "slow",
    "variants": {"slow": {"ppo.learning_rate": 1e-4}, "fast": {"ppo": {"learning_rate": 1e-2}}},
}
TUNE = {
    "title": "How fast",
    "description": "Which learning rate?",
    "kind": "tune",
    "settings": SETTINGS,
    "seeds": {"count": 2},
    "budget": 2,
    "variants": {
        "drawn": {"list": [{}], "sample": {"ppo.learning_rate": {"log": [1e-3, 1e-1]}}},
        "grid": {"settings": {"ppo.discount": 0.9}, "grid": {"ppo.learning_rate": [1e-4, 1e-2]}},
    },
}


def write(path: Path, content: dict[str, Any], **changes: Any) -> str:
    """Write a study file with other values for some of its keys; None removes a key."""
    changed = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    return str(path)

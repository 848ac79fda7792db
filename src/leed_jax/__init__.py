"""LEED in JAX: multi-agent reinforcement learning from demonstrations that a language model instructs.

The names below are loaded when they are first used, so that `import leed_jax` itself costs next to nothing.
"""

import importlib
from typing import Any

from leed_jax.version import __version__

_EXPORTS = {
    "Actor": "learning.episodes",
    "AutoReset": "environments",
    "Callback": "training.loop",
    "DemonstrationSet": "demonstrations",
    "EarlyStopping": "training.loop",
    "Environment": "environments",
    "ExpertConfig": "learning.config",
    "Experts": "learning.experts",
    "Hparams": "learning.config",
    "InstructedEnvironment": "instructions",
    "LeedError": "errors",
    "NetworkConfig": "networks.config",
    "PPOConfig": "learning.config",
    "Policy": "networks.policy",
    "QLearningConfig": "learning.config",
    "RunConfig": "config",
    "TimeStep": "environments",
    "TrainState": "learning.ppo",
    "TrainedPolicy": "training.trained_policy",
    "animate": "training.trained_policy",
    "check_environment": "environments.contract",
    "evaluate": "training.trained_policy",
    "execute": "instructions",
    "execute_many": "instructions",
    "expert_episodes": "learning.experts",
    "expert_samples": "learning.experts",
    "init_state": "learning.ppo",
    "load_demonstrations": "demonstrations",
    "load_policy": "training.trained_policy",
    "make_train_chunk": "learning.ppo",
    "play": "learning.episodes",
    "policy_actor": "learning.episodes",
    "random_actor": "learning.episodes",
    "rollout": "training.trained_policy",
    "train": "training.library",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'leed_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"leed_jax.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

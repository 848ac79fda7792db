"""LEED in JAX: multi-agent reinforcement learning from demonstrations that a language model instructs.

The names below are loaded when they are first used, so that `import leed_jax` itself costs next to nothing.
"""

import importlib
from typing import Any

from leed_jax.version import __version__

_EXPORTS = {
    "AutoReset": "environments",
    "Config": "config",
    "DemonstrationSet": "demonstrations",
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
    "check_environment": "environments.contract",
    "execute": "instructions",
    "execute_many": "instructions",
    "expert_episodes": "learning.experts",
    "expert_samples": "learning.experts",
    "init_state": "learning.ppo",
    "load_demonstrations": "demonstrations",
    "make_train_chunk": "learning.ppo",
    "play": "learning.episodes",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'leed_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"leed_jax.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

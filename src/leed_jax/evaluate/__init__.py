"""Whole fresh episodes, apart from training."""

from leed_jax.evaluate.episodes import (
    Chooser,
    Played,
    forgetful,
    measured_play,
    play,
    play_through,
    policy_chooser,
    random_chooser,
)

__all__ = [
    "Chooser",
    "Played",
    "forgetful",
    "measured_play",
    "play",
    "play_through",
    "policy_chooser",
    "random_chooser",
]

"""Which sections of a configuration have a say in what a run learns."""

from leed_jax.config.check import IMITATING, VALUE_BASED


def idle_sections(algorithm: str, refresh_every: int) -> frozenset[str]:
    """The sections that what this algorithm learns does not depend on, so that runs which differ in them are alike.

    Demonstrations are among them where nothing is imitated, though such a run tells what they come to by themselves.

    Args:
        algorithm: one of `ALGORITHMS`.
        refresh_every: updates after which a model is asked for better plans; 0 for never.
    """
    idle = {"q_learning"} if algorithm not in VALUE_BASED else {"ppo"}
    if algorithm not in IMITATING:
        idle |= {"expert", "demonstrations"}
    if not refresh_every:
        idle |= {"llm", "generate"}
    return frozenset(idle)

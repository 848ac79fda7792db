"""Initial parameters from another run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from leed_jax.errors import ConfigurationError
from leed_jax.report.checkpoints import leaf_name, read_parameters
from leed_jax.report.directory import read_config
from leed_jax.training.program import Setup, seed_keys


def initial_parameters(setup: Setup) -> Any:
    """The parameters that `init_from` names, for every seed; None where it names no run.

    Seed i takes those of the other run's seed i, or of its only seed. Networks that all agents share there serve any
    number of agents here.

    Raises:
        ConfigurationError: the parameters do not fit.
        RunDirectoryError: there is no such run, or it has no checkpoint.
    """
    if setup.config.init_from is None:
        return None
    path = Path(setup.config.init_from).expanduser()
    other = read_config(path)
    _, given = read_parameters(path, "last")
    keys = seed_keys(setup.config.seed, setup.config.num_seeds)
    wanted = jax.eval_shape(jax.vmap(setup.algorithm.init), keys).parameters
    names = {leaf_name(name) for name, _ in jax.tree.leaves_with_path(wanted)}
    if names != set(given):
        raise ConfigurationError(
            f"init_from={path}: its algorithm={other.algorithm} has other networks than algorithm="
            f"{setup.config.algorithm} with these settings; they differ in "
            f"{', '.join(sorted(names ^ set(given))[:3])}."
        )
    return jax.tree_util.tree_map_with_path(
        lambda name, leaf: _fitted(path, leaf_name(name), given[leaf_name(name)], leaf), wanted
    )


def _fitted(path: Path, name: str, given: np.ndarray, wanted: Any) -> Array:
    """One array, repeated over seeds and groups where there is a single one."""
    array = jnp.asarray(given)
    for axis in range(min(2, array.ndim)):
        if array.shape[axis] == 1 and wanted.shape[axis] > 1:
            array = jnp.repeat(array, wanted.shape[axis], axis)
    if array.shape != wanted.shape:
        raise ConfigurationError(
            f"init_from={path}: {name} has the shape {given.shape} there (seeds, groups of agents, ...) and "
            f"{wanted.shape} here. Seeds, groups, sizes of observations and actions, and hidden sizes have to fit; a "
            "single seed serves several, and networks that all agents share serve any number of agents."
        )
    return array.astype(wanted.dtype)

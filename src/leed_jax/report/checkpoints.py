"""Checkpoints of the whole training state, written with orbax; the last and the best one are kept."""

import contextlib
import logging
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.files import writing
from leed_jax.report.directory import CHECKPOINTS

_DISCARDED = "discarded"

# Names of arrays in checkpoints of version 0.1, by their present names.
_BEFORE = {
    "rollout_state.obs": "actors.observation",
    "rollout_state.episode_return": "actors.running_return",
    "rollout_state.instruction": "actors.counter",
    "rollout_state.is_first": "actors.start",
    "rollout_state.hidden.": "actors.memory.",
    "rollout_state.": "actors.",
    "gap.mean": "gap.now",
    "gap.largest": "gap.widest",
    "gap.reference_returns": "gap.against",
}
# What the states of vdn and qmix did not have; zero serves them.
_ADDED = ("actors.counter", "actors.start")


class Checkpoints:
    """Checkpoints of one run, numbered by the chunks trained before them.

    Writing is asynchronous and atomic: if the process is killed or the disk is full, the previous checkpoint stays.

    Args:
        directory: the run directory.
        read_only: change nothing, as another process may be writing there.

    Raises:
        RunDirectoryError: the folder cannot be read or written.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        import orbax.checkpoint as ocp  # noqa: PLC0415 - takes a second; wrong arguments are reported before
        from orbax.checkpoint import checkpoint_managers as policies  # noqa: PLC0415

        self._args = ocp.args
        self._directory, self._read_only = (directory / CHECKPOINTS).absolute(), read_only
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
        handler = ocp.StandardCheckpointHandler()
        with self._readable(f"folder {self._directory}"), contextlib.ExitStack() as stack:
            if self._directory.exists() and not self._directory.is_dir():
                raise NotADirectoryError  # orbax would notice when the first checkpoint is written
            stack.enter_context(_quiet_orbax())
            # With todelete_subdir, orbax renames a checkpoint before it deletes it file by file. Otherwise one that is
            # half deleted when the process is killed would be taken for a whole one.
            options = ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["score"],
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
                cleanup_tmp_directories=not read_only,
                todelete_subdir=None if read_only else _DISCARDED,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handler)
            self._open = stack.pop_all()

    def latest(self) -> int | None:
        """The number of the last checkpoint, None if there is none."""
        with self._readable(f"folder {self._directory}"):
            return self._manager.latest_step()

    def best(self) -> int | None:
        """The number of the best checkpoint, None if there is none."""
        with self._readable(f"folder {self._directory}"):
            return self._manager.best_step()

    def save(self, chunk: int, state: Any, score: float | None) -> None:
        """Start to write a checkpoint; errors are raised here or by the next `save`, `wait` or `close`.

        Args:
            chunk: its number.
            state: arrays that are neither donated nor changed afterwards.
            score: the best checkpoint is the one with the largest score; None and NaN count as lowest.

        Raises:
            RunDirectoryError: this checkpoint, or the one before, cannot be written.
        """
        worst = -sys.float_info.max
        metrics = {"score": worst if score is None or math.isnan(score) else score}
        self.wait()
        with self._written():
            self._manager.save(chunk, args=self._args.StandardSave(_named_leaves(state)), metrics=metrics)

    def restore(self, chunk: int, abstract_state: Any) -> Any:
        """Read a checkpoint.

        Args:
            chunk: its number.
            abstract_state: the state's structure with shapes, dtypes and shardings.

        Raises:
            RunDirectoryError: it cannot be read, or holds other arrays.
        """
        wanted = _named_leaves(abstract_state)
        with self._readable(f"checkpoint {self._directory / str(chunk)}"):
            found = self._manager.item_metadata(chunk)
            wanted = {_name_before(name) if _name_before(name) in found else name: x for name, x in wanted.items()}
            added = {name for name in wanted if name not in found and _name_before(name) in _ADDED}
            stored = {name: leaf for name, leaf in wanted.items() if name not in added}
            kinds = {name: (leaf.shape, leaf.dtype) for name, leaf in stored.items()}
            if {name: (found[name].shape, found[name].dtype) for name in found} != kinds:
                raise ValueError("it holds other arrays")
            leaves = self._manager.restore(chunk, args=self._args.StandardRestore(stored))
        paths, structure = jax.tree.flatten_with_path(abstract_state)
        names = [(leaf_name(path), leaf) for path, leaf in paths]
        whole = [_typed(leaves.get(name, leaves.get(_name_before(name))), leaf) for name, leaf in names]
        return jax.tree.unflatten(structure, whole)

    def restore_parameters(self, chunk: int) -> dict[str, np.ndarray]:
        """Read the parameters of a checkpoint alone, by their names in the state, without needing its structure.

        Args:
            chunk: its number.

        Raises:
            RunDirectoryError: it cannot be read.
        """
        with self._readable(f"checkpoint {self._directory / str(chunk)}"):
            found = self._manager.item_metadata(chunk)
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                name: jax.ShapeDtypeStruct(found[name].shape, found[name].dtype, sharding=sharding) for name in found
            }
            leaves = self._manager.restore(chunk, args=self._args.StandardRestore(wanted))
        prefix = "parameters."
        return {name[len(prefix) :]: np.asarray(x) for name, x in leaves.items() if name.startswith(prefix)}

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        with self._written():
            self._manager.wait_until_finished()
        self._sweep()

    def close(self) -> None:
        """Wait until everything is written, and release threads.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        with self._open, self._written():
            self._manager.close()
        self._sweep()

    def _written(self) -> contextlib.AbstractContextManager[None]:
        # tensorstore reports a full disk as a ValueError.
        return writing(self._directory, ValueError)

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Turn the many kinds of errors that orbax and tensorstore raise for damaged checkpoints into one."""
        try:
            yield
        except Exception as error:
            raise RunDirectoryError(
                f"{what} cannot be used ({type(error).__name__}): it is damaged, "
                "config.yaml was changed since, or another version of leed_jax wrote it. Restore what was there, or "
                "start a new run."
            ) from error

    def _sweep(self) -> None:
        if not self._read_only:
            shutil.rmtree(self._directory / _DISCARDED, ignore_errors=True)


def choose_checkpoint(checkpoints: Checkpoints, path: Path, which: str) -> int:
    """The number of a checkpoint.

    Args:
        checkpoints: those of a run.
        path: its directory, for messages.
        which: `last`, `best` (by the return while training), or a number.

    Raises:
        ConfigurationError: `which` is none of these.
        RunDirectoryError: there is no such checkpoint.
    """
    known = {"last": checkpoints.latest(), "best": checkpoints.best()}
    if which not in known and not which.isdecimal():
        raise ConfigurationError(f"checkpoint {which}: give last, best, or the number of a checkpoint.")
    chunk = known[which] if which in known else int(which)
    there = sorted({number for number in known.values() if number is not None})
    if chunk is None or chunk not in there:
        shown = ", ".join(map(str, there)) or "none"
        raise RunDirectoryError(f"{path} has no checkpoint {which} (there: {shown}); continue the run, or name one.")
    return chunk


def read_parameters(path: Path, which: str) -> tuple[int, dict[str, np.ndarray]]:
    """The parameters in a run directory, by name, with a leading axis of seeds; and the number of their checkpoint.

    Args:
        path: the run directory.
        which: see `choose_checkpoint`.

    Raises:
        RunDirectoryError: there is no such checkpoint.
    """
    if not (path / CHECKPOINTS).is_dir():
        raise RunDirectoryError(f"{path} has no checkpoint yet; continue the run.")
    with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
        chunk = choose_checkpoint(checkpoints, path, which)
        return chunk, checkpoints.restore_parameters(chunk)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keep orbax from printing tracebacks of errors that it also raises."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def shown(unraisable: Any) -> None:
        # When one write fails, orbax abandons the concurrent ones, which then end in these errors.
        abandoned = "async_serialize" in repr(unraisable.object)
        if not abandoned and str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = shown
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


def _named_leaves(state: Any) -> dict[str, Any]:
    """The state's arrays by path, as orbax takes them: keys as integers, without arrays that have no elements."""
    return {leaf_name(path): _data(leaf) for path, leaf in jax.tree.leaves_with_path(state) if leaf.size}


def leaf_name(path: tuple[Any, ...]) -> str:
    """The name of an array by its path in a pytree, with dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _name_before(name: str) -> str:
    """The name of an array in checkpoints of version 0.1."""
    for now, before in _BEFORE.items():
        if name == now or (now.endswith(".") and name.startswith(now)):
            return before + name[len(now) :]
    return name


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _typed(data: jax.Array | None, leaf: Any) -> jax.Array:
    """The inverse of `_data`; zeros where nothing was stored."""
    if data is None:
        return jnp.zeros(leaf.shape, leaf.dtype)
    return jax.random.wrap_key_data(data, impl=_key_impl(leaf)) if _is_key(leaf) else data


def _key_impl(leaf: Any) -> Any:
    """The generator of an abstract array of keys, which `jax.random.key_impl` does not accept directly."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]

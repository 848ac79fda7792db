"""Checkpoints of the whole training state with orbax: the last one and the best one are kept."""

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

from leed_jax.errors import RunDirectoryError
from leed_jax.report.directory import CHECKPOINTS

_DISCARDED = "discarded"


class Checkpoints:
    """Checkpoints of one run, numbered by the chunks that went before them.

    Writing is asynchronous and atomic: a process that is killed at any moment leaves the checkpoint before in place.

    Args:
        directory: the run directory.
        read_only: touch nothing, as another process may be writing there.

    Raises:
        RunDirectoryError: what is there cannot be read.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        import orbax.checkpoint as ocp  # noqa: PLC0415 - takes a second, and errors in what was asked for come first
        from orbax.checkpoint import checkpoint_managers as policies  # noqa: PLC0415

        self._args = ocp.args
        self._directory, self._read_only = (directory / CHECKPOINTS).absolute(), read_only
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
        handler = ocp.StandardCheckpointHandler()
        with self._readable(f"folder {self._directory}"), _quiet(read_only):
            if self._directory.exists() and not self._directory.is_dir():
                raise NotADirectoryError  # which would be noticed no sooner than in writing
            # A directory that was being removed file by file when the process was killed would pass for a checkpoint,
            # so it is renamed first and removed afterwards.
            options = ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["score"],
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
                cleanup_tmp_directories=not read_only,
                todelete_subdir=None if read_only else _DISCARDED,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handler)

    def latest(self) -> int | None:
        """The number of the last checkpoint, None if there is none."""
        with self._readable(f"folder {self._directory}"):
            return self._manager.latest_step()

    def best(self) -> int | None:
        """The number of the best checkpoint, None if there is none."""
        with self._readable(f"folder {self._directory}"):
            return self._manager.best_step()

    def save(self, chunk: int, state: Any, score: float | None) -> None:
        """Start to write a checkpoint.

        Args:
            chunk: its number.
            state: arrays that nobody will donate or change.
            score: what the best checkpoint is chosen by, the larger the better; None or NaN is worse than any number.
        """
        worst = -sys.float_info.max
        metrics = {"score": worst if score is None or math.isnan(score) else score}
        self.wait()
        self._manager.save(chunk, args=self._args.StandardSave(_named_leaves(state)), metrics=metrics)

    def restore(self, chunk: int, abstract_state: Any) -> Any:
        """Read a checkpoint.

        Args:
            chunk: its number.
            abstract_state: the state's structure with shapes, dtypes and shardings.

        Raises:
            RunDirectoryError: it cannot be read, or holds something else.
        """
        wanted = _named_leaves(abstract_state)
        with self._readable(f"checkpoint {self._directory / str(chunk)}"):
            found = self._manager.item_metadata(chunk)
            kinds = {name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
            if {name: (found[name].shape, found[name].dtype) for name in found} != kinds:
                raise ValueError("it holds other arrays")
            leaves = self._manager.restore(chunk, args=self._args.StandardRestore(wanted))
        paths, structure = jax.tree.flatten_with_path(abstract_state)
        whole = [_typed(leaves.get(_name(path)), leaf) for path, leaf in paths]
        return jax.tree.unflatten(structure, whole)

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()
        self._sweep()

    def close(self) -> None:
        """Wait until everything is written, and let go of threads."""
        self._manager.close()
        self._sweep()

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Tell what cannot be read, and why that may be."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged or foreign checkpoint
            raise RunDirectoryError(
                f"{what} cannot be used ({type(error).__name__}): it is damaged, "
                "config.yaml was changed since, or another version of leed_jax wrote it. Restore what was there, or "
                "start a new run."
            ) from error

    def _sweep(self) -> None:
        if not self._read_only:
            shutil.rmtree(self._directory / _DISCARDED, ignore_errors=True)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keep orbax from warning that what is to be read only can only be read."""
    logger = logging.getLogger("absl")
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _named_leaves(state: Any) -> dict[str, Any]:
    """The state's arrays by their path, as orbax takes them: keys as their data, and none without elements."""
    return {_name(path): _data(leaf) for path, leaf in jax.tree.leaves_with_path(state) if leaf.size}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


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
    """The inverse of `_data`, and zeros for what has no elements."""
    if data is None:
        return jnp.zeros(leaf.shape, leaf.dtype)
    return jax.random.wrap_key_data(data, impl=_key_impl(leaf)) if _is_key(leaf) else data


def _key_impl(leaf: Any) -> Any:
    """The generator of an abstract array of keys, which JAX tells of real and of traced ones alone."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]

"""Checkpoints of the whole training state with orbax: the last one and the best one are kept."""

import math
import shutil
import sys
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
    """

    def __init__(self, directory: Path) -> None:
        import orbax.checkpoint as ocp  # noqa: PLC0415 - takes a second, and errors in what was asked for come first
        from orbax.checkpoint import checkpoint_managers as policies  # noqa: PLC0415

        self._args = ocp.args
        self._directory = (directory / CHECKPOINTS).absolute()
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
        # A directory that was being removed file by file when the process was killed would pass for a checkpoint, so it
        # is renamed first and removed afterwards.
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["score"],
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
            cleanup_tmp_directories=True,
            todelete_subdir=_DISCARDED,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def latest(self) -> int | None:
        """The number of the last checkpoint, None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The number of the best checkpoint, None if there is none."""
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
        try:
            leaves = self._manager.restore(chunk, args=self._args.StandardRestore(_named_leaves(abstract_state)))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged or foreign checkpoint
            raise RunDirectoryError(
                f"checkpoint {self._directory / str(chunk)} cannot be read ({type(error).__name__}): it is damaged, or "
                "config.yaml was changed since. Restore what was there, or start a new run."
            ) from error
        paths, structure = jax.tree.flatten_with_path(abstract_state)
        whole = [leaves[_name(path)] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in paths]
        return jax.tree.unflatten(structure, whole)

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()
        self._sweep()

    def close(self) -> None:
        """Wait until everything is written, and let go of threads."""
        self._manager.close()
        self._sweep()

    def _sweep(self) -> None:
        shutil.rmtree(self._directory / _DISCARDED, ignore_errors=True)


def _named_leaves(state: Any) -> dict[str, Any]:
    """The state's arrays by their path; those without elements, which orbax refuses, are left out."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(state) if leaf.size}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")

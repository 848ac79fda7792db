import contextlib
import logging
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disk import abandoned_writes, file_size_limit

from leed_jax.errors import RunDirectoryError
from leed_jax.report.checkpoints import Checkpoints


def state_of(value):
    """A state with all that may be hard to write: keys, booleans, scalars, and an array without elements."""
    return {
        "weights": jnp.full((2, 3), value, jnp.float32),
        "mask": jnp.array([True, False]),
        "count": jnp.array(int(value), jnp.int32),
        "key": jax.random.split(jax.random.key(int(value)), 2),
        "other_key": jax.random.key(7, impl="rbg"),
        "nothing": jnp.zeros((2, 0), jnp.float32),
    }


def abstract(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert ours.dtype == theirs.dtype
        is_key = jnp.issubdtype(ours.dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(*(jax.random.key_data(x) if is_key else x for x in (ours, theirs)))


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = state_of(3)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(1, state, 0.5)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.latest() == 1
    assert_same(again.restore(1, abstract(state)), state)
    again.close()


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([1.0, 5.0, 2.0, 3.0], [2, 4], 2),
        ([1.0, 2.0, 3.0], [3], 3),
        ([-5.0, None, math.nan], [1, 3], 1),
    ],
)
def test_the_best_and_the_last_are_kept(scores, kept, best, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for index, score in enumerate(scores, start=1):
        checkpoints.save(index, state_of(index), score)
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == kept
    again = Checkpoints(tmp_path)
    assert (again.best(), again.latest()) == (best, kept[-1])
    assert int(again.restore(best, abstract(state_of(0)))["count"]) == best
    again.close()


@pytest.mark.parametrize("name", ["1/metrics/metrics", ""])
def test_damaged_files_beside_the_arrays_are_an_error_that_names_the_folder(name, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1), 0.5)
    checkpoints.close()
    damaged = tmp_path / "checkpoints" / name
    if damaged.is_dir():
        shutil.rmtree(damaged)
    damaged.write_text("{")
    with pytest.raises(RunDirectoryError, match=re.escape(f"folder {tmp_path / 'checkpoints'} cannot be used")):
        Checkpoints(tmp_path).best()


@pytest.mark.parametrize("change", ["shape", "missing", "extra"])
def test_a_checkpoint_of_something_else_is_refused(change, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1), None)
    checkpoints.wait()
    wanted = abstract(state_of(1))
    if change == "shape":
        wanted["weights"] = wanted["mask"]
    elif change == "missing":
        del wanted["mask"]
    else:
        wanted["more"] = wanted["mask"]
    with pytest.raises(RunDirectoryError, match=r"checkpoints/1 cannot be used"):
        checkpoints.restore(1, wanted)
    checkpoints.close()


def save_and_wait(checkpoints, *arguments):
    checkpoints.save(*arguments)
    checkpoints.wait()


@pytest.fixture
def collected():
    with abandoned_writes():
        yield


# orbax's abandoned writes complain whenever they are deleted, which may be in the middle of the test.
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tmp_path, caplog, capfd):
    level = logging.getLogger("absl").level
    checkpoints = Checkpoints(tmp_path)
    save_and_wait(checkpoints, 1, state_of(1), 0.5)
    message = rf"^{re.escape(str(tmp_path / 'checkpoints'))} cannot be written: File too large\. [^:]* is kept"
    with file_size_limit(300):
        with pytest.raises(RunDirectoryError, match=message):
            save_and_wait(checkpoints, 2, state_of(2), 0.6)
        with contextlib.suppress(RunDirectoryError):
            checkpoints.close()
    assert (caplog.text, capfd.readouterr().err) == ("", "")
    assert logging.getLogger("absl").level == level
    again = Checkpoints(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()] == ["1"]
    assert_same(again.restore(again.latest(), abstract(state_of(0))), state_of(1))
    again.close()

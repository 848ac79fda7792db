"""Runs that meet a full disk: one sentence, exit status 2, and the run can be resumed once there is room."""

import contextlib
import os

import pytest
from disk import abandoned_writes, file_size_limit, fill, small_disk
from tiny_run import rows_of, settings

from leed_jax.cli.run import main
from leed_jax.errors import RunDirectoryError
from leed_jax.report import checkpoints
from leed_jax.report.summary import write_summary

# orbax's abandoned writes complain whenever they are deleted, which may be in the middle of a test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    with abandoned_writes():
        yield


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request, tmp_path):
    """A folder, and a context manager that leaves no room in it."""
    if request.param == "limit":
        yield tmp_path, lambda: file_size_limit(1000)
        return

    @contextlib.contextmanager
    def filled():
        fill(folder / "filler")
        yield
        (folder / "filler").unlink()

    folder = tmp_path / "small"
    with small_disk(folder, 1024) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a tmpfs")
        yield folder, filled


def test_a_checkpoint_does_not_fit(disk, monkeypatch, capsys):
    folder, full = disk
    save = checkpoints.Checkpoints.save
    with contextlib.ExitStack() as stack:

        def save_and_fill(self, chunk, *rest):
            save(self, chunk, *rest)
            if chunk == 2:
                self.wait()
                stack.enter_context(full())

        monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and_fill)
        assert main(settings(folder / "run", network__hidden_sizes="[32]")) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {folder / 'run'}{os.sep}")
    assert " cannot be written: " in errors
    assert errors.count("\n") == 1
    kept = {path.name for path in (folder / "run" / "checkpoints").iterdir()}
    assert "2" in kept
    assert "4" not in kept
    monkeypatch.undo()
    assert main([f"resume={folder / 'run'}"]) == 0
    assert "Continuing after chunk 2 of 4" in capsys.readouterr().out
    assert [row["chunk"] for row in rows_of(folder / "run")] == [1, 2, 3, 4]


def test_a_summary_that_does_not_fit_is_not_there(tmp_path):
    with file_size_limit(), pytest.raises(RunDirectoryError, match=r"summary\.json cannot be written: File too large"):
        write_summary(tmp_path, {"a": 1})
    assert not list(tmp_path.iterdir())

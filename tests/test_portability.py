"""Behaviour at the edges of the operating system: closed pipes, and Windows, which has no fcntl."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("run", "generate", "demonstrations", "evaluate", "compare", "study")

# Third-party packages are imported before the platform is changed, as they would look for the real Windows.
ON_WINDOWS = """
import pkgutil, importlib, os, sys, types
import leed_jax
names = [m.name for m in pkgutil.walk_packages(leed_jax.__path__, "leed_jax.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
for name in [name for name in sys.modules if name.split(".")[0] == "leed_jax"]:
    del sys.modules[name]
locked = []
def locking(handle, mode, length):
    if locked:
        raise PermissionError(13, "Permission denied")
    locked.append(handle)
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules["fcntl"] = None
sys.platform = "win32"
for name in names:
    importlib.import_module(name)
import pathlib
from leed_jax.files import lock_folder
assert lock_folder(pathlib.Path(sys.argv[1])) == locked[0]
assert lock_folder(pathlib.Path(sys.argv[1])) is None
"""


@pytest.fixture(scope="module")
def helped():
    """Exit status and standard error of `--help` of every command, when nobody reads what it prints."""
    reader, writer = os.pipe()
    os.close(reader)
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"leed_jax.{name}", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
        )
        for name in COMMANDS
    }
    os.close(writer)
    return {name: (process.communicate(timeout=120)[1], process.returncode) for name, process in started.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_into_a_closed_pipe_prints_no_traceback(name, helped):
    errors, status = helped[name]
    assert errors == ""
    assert status in (0, 141)  # 0 where argparse itself ignores that it could not print


def test_everything_can_be_imported_without_fcntl(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_WINDOWS, str(tmp_path)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

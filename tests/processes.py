"""Python processes that can import this library as the tests do."""

import os
import subprocess
import sys
from pathlib import Path

import leed_jax


def environment() -> dict[str, str]:
    """Return the environment of such a process."""
    parts = [str(Path(leed_jax.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(parts)}


def python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a process that runs `code`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)

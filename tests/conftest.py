"""What has to be set up before any test module is imported."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from typing import Any

import pytest

# Tiny programs take far longer to compile than to run. All processes of a test session, and the commands that they
# start, compile without most optimisations and share one cache, which is deleted at the end. Two flags of XLA make
# compilation three times as fast again. JAX reads the environment when it is imported. An entry of the cache that
# another process is just writing cannot be read, and is compiled again.
_FOLDER, _FLAGS = "LEED_JAX_TEST_CACHE", "LEED_JAX_TEST_FLAGS"
_OWNS_CACHE = _FOLDER not in os.environ
_QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


def _known_flags() -> str:
    """Those of the flags that the installed version of XLA knows; one that it does not know ends the process."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    tried = [
        subprocess.Popen(command, env={**os.environ, "XLA_FLAGS": flag}, stderr=subprocess.DEVNULL) for flag in _QUICK
    ]
    return " ".join(flag for flag, process in zip(_QUICK, tried, strict=True) if process.wait() == 0)


if _OWNS_CACHE:
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="leed-jax-test-")
    os.environ[_FLAGS] = f"{os.environ.get('XLA_FLAGS', '')} {_known_flags()}".strip()
os.environ.update(
    XLA_FLAGS=os.environ[_FLAGS],
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    JAX_COMPILATION_CACHE_DIR=os.environ[_FOLDER],
    LEED_JAX_CACHE=os.environ[_FOLDER],
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    PYTHONWARNINGS="ignore:Error reading persistent compilation cache entry",
)

import jax  # noqa: E402
from flax import struct  # noqa: E402

# TensorFlow Probability, on which distrax is built, uses deprecated names of JAX while it is imported; all other
# warnings are errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import distrax  # noqa: F401

if jax.config.values["jax_compilation_cache_dir"] != os.environ[_FOLDER]:
    raise RuntimeError("JAX was imported before tests/conftest.py, so that tests would compile slowly.")

_dataclass, _register_dataclass = struct.dataclass, jax.tree_util.register_dataclass


# The import hook checks the arguments of functions against their annotations, and of constructors too. JAX, however,
# constructs a pytree with whatever it holds at the time: with leading axes under vmap, with placeholders and shapes.
# So the fields of pytrees are not checked.
def _unchecked_dataclass(cls: Any = None, **options: Any) -> Any:
    """As `flax.struct.dataclass`, but the types of its fields are not checked."""
    if cls is None:
        return functools.partial(_unchecked_dataclass, **options)
    made = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


def _register_unchecked(cls: Any, *args: Any, **options: Any) -> Any:
    """As `jax.tree_util.register_dataclass`, but the types of its fields are not checked."""
    # Not of the class, whose type hints would then be hidden from `typing.get_type_hints`.
    cls.__init__.__no_type_check__ = True
    return _register_dataclass(cls, *args, **options)


struct.dataclass = _unchecked_dataclass
jax.tree_util.register_dataclass = _register_unchecked


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the cache, in the process that made it."""
    if _OWNS_CACHE:
        shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)

"""What has to stand before any test module is imported."""

import atexit
import functools
import os
import tempfile
import warnings
from typing import Any

from flax import struct

# TensorFlow Probability, which distrax stands on, touches deprecated names of JAX while it is imported; all else that
# warns is an error.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import distrax  # noqa: F401

# No test reads or writes the user's cache. The processes that pytest starts inherit the folder.
if not os.environ.get("LEED_JAX_CACHE", "").startswith(tempfile.gettempdir()):
    _cache = tempfile.TemporaryDirectory(prefix="leed_jax-cache-")
    atexit.register(_cache.cleanup)
    os.environ["LEED_JAX_CACHE"] = _cache.name

_dataclass = struct.dataclass


def _unchecked_dataclass(cls: Any = None, **options: Any) -> Any:
    """As `flax.struct.dataclass`, but the types of its fields are not checked.

    The import hook checks the arguments of functions against their annotations, and of constructors too. JAX, however,
    constructs a pytree with whatever it holds at the time: with leading axes under vmap, with placeholders and shapes.
    """
    if cls is None:
        return functools.partial(_unchecked_dataclass, **options)
    made = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


struct.dataclass = _unchecked_dataclass

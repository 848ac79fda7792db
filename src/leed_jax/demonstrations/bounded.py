"""Files that may be anything, read no further than they may be long."""

import os
import stat
from pathlib import Path

from leed_jax.errors import DemonstrationError


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file, unless it is larger than `limit`.

    Args:
        path: the file.
        limit: the largest size, in bytes.

    Raises:
        DemonstrationError: it cannot be read, is not a regular file, or is too large.
    """
    try:
        # Opening a named pipe would otherwise wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DemonstrationError(f"{path} cannot be read, as it is not a file. Restore it.")
            if status.st_size > limit:
                raise DemonstrationError(
                    f"{path} has {status.st_size:,} bytes, and at most {limit:,} are expected. Restore the file."
                )
            return file.read(limit)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DemonstrationError(f"{path} cannot be read ({reason}). Restore the file.") from None

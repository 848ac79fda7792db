"""Disks that are full: a small tmpfs where one can be mounted, or a limit on the size of files."""

import contextlib
import gc
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_size_limit(limit: int = 0) -> Iterator[None]:
    """Let this process write no file longer than `limit` bytes. Works for every user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a tmpfs on a new folder; say whether this user may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write zeros to a file until there is no room left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (2**12, 1):
            while file.write(bytes(size)):
                pass


@contextlib.contextmanager
def abandoned_writes() -> Iterator[None]:
    """Collect here what orbax leaves behind when a write fails: an event loop that complains when it is deleted."""
    try:
        yield
    finally:
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        gc.collect()
        sys.unraisablehook = hook

"""Small things done to files and folders by more than one module of the journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_all(descriptor: int, data: bytes) -> None:
    """Write to the last byte: a disk that is nearly full takes a part, and only the next write fails."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_synced(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file whose content is durable when this returns; its name is once its folder is synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """
    Put a small file in place so that it is whole and durable when this returns; 0600.

    A crash before the rename leaves the old file, or none, and a `.tmp` that the next write replaces.
    """
    partial = path.with_name(path.name + ".tmp")
    write_synced(partial, data)
    partial.rename(path)
    sync_directory(path.parent)


def make_directory(directory: Path, mode: int = 0o777) -> None:
    """
    Make a folder, and those above it that are missing, so that they are there after a power cut.

    What is synced inside a folder is lost with the folder's own name. A parent that may not be read cannot be synced, and is
    left to the system.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in reversed(missing):
        with contextlib.suppress(PermissionError):
            sync_directory(made.parent)


def sync_directory(directory: Path) -> None:
    """Make names that were put into a folder durable; without it a power cut may take the file with its name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """One process at a time, among those who ask; the lock is on the folder itself and ends with its holder."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

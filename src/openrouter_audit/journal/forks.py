"""
Descriptors whose locks must not live on in a forked child.

A flock belongs to the open file, which a child shares: as long as it has a copy of the descriptor, the lock of a parent
that was killed holds. So whoever locks a file keeps the descriptor where its fork handler finds it, and the handler
closes the copy. One gap is left: another thread may fork between the system's `open` and our keeping what it returned,
and in the child nobody would ever know of that descriptor. `no_fork` closes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_pid = os.getpid()
_lock = threading.RLock()  # a finaliser, or a fork in one, may come here in the thread that holds it


@contextmanager
def no_fork() -> Iterator[None]:
    """No other thread forks inside: a descriptor opened and kept in here is known wherever it is copied to."""
    global _pid, _lock
    if os.getpid() != _pid:  # forked without Python's handlers: the thread that held the lock may not be there
        _pid, _lock = os.getpid(), threading.RLock()
    with _lock:
        yield


def _before() -> None:
    _lock.acquire()


def _after_in_parent() -> None:
    _lock.release()


def _after_in_child() -> None:
    global _pid, _lock
    _pid, _lock = os.getpid(), threading.RLock()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

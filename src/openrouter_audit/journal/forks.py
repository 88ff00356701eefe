"""
What another thread is in the middle of when a process forks, and the child could never mend: `no_fork` lets the fork wait.

A flock belongs to the open file, which a child shares: as long as it has a copy of the descriptor, the lock of a parent
that was killed holds. So whoever locks a file keeps the descriptor where its fork handler finds it, and the handler
closes the copy. Between the system's `open` and our keeping what it returned nobody in the child would ever know of it.

A module that a thread is importing is locked, and in the child locked for good: whoever needs it there waits for ever. So
does who needs a lock of OpenSSL's. What a thread of ours may be the first to import, and a child needs, is imported in here.

What others do in threads while they fork is theirs: Python lets no child finish what they had begun.
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
    """No other thread forks inside; a fork in this thread (a signal handler's, a finaliser's) does not wait."""
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

"""
The threads behind a recording process: one that sequences, one for each follower.

Pacing: a look at the spool every 500 ms, at once when somebody waits for it. Nothing here is on a caller's path; when a
database is locked, full or gone, the thread says so once, tries again more slowly, and what is spooled waits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from openrouter_audit.errors import OpenRouterAuditError
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.sequencer import Sequencer

PACE_S: Final = 0.5
_MAX_BACK_OFF_S: Final = 30.0

logger = logging.getLogger("openrouter_audit")
_INHERITED: list[object] = []
"""Connections of a parent process: kept for ever, because SQLite's may neither be used nor closed after a fork."""


class Follower(Protocol):
    """Reads the journal in index order with a cursor of its own, and can start over."""

    def follow(self) -> int:
        """Take in what is new, and return the tree size it stands at. Called by one thread at a time."""
        ...

    def close(self) -> None: ...


class Worker:
    """
    A daemon thread that repeats one step, paced, and lets others wait until a step begun after their call has ended.

    A forked child has no threads: there `start` begins anew, and waiting for the parent's thread is not possible.
    """

    def __init__(self, name: str, step: Callable[[], float | None], on_stop: Callable[[], None]) -> None:
        self._name = name
        self._step = step
        self._on_stop = on_stop
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.is_inherited:
            self._begin()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    @property
    def is_inherited(self) -> bool:
        """In a forked child that has not started its own: the lock may be held by a thread that is not there."""
        return self._pid != os.getpid()

    def wake(self) -> None:
        if self.is_inherited:
            return
        with self._condition:
            self._asked += 1
            self._condition.notify_all()

    def wait(self, timeout: float) -> bool:
        """Ask for a step now and wait for its end; False where time runs out or the step failed all the while."""
        if self.is_inherited:
            return False
        with self._condition:
            self._asked += 1
            wanted = self._asked
            self._condition.notify_all()
            return self._condition.wait_for(lambda: self._answered >= wanted or self._thread is None, timeout) and (
                self._answered >= wanted
            )

    def stop(self, timeout: float | None = None) -> None:
        if self.is_inherited:
            return
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        pace, failures = PACE_S, 0
        while True:
            with self._condition:
                if not self._stopping:
                    self._condition.wait_for(lambda: self._stopping or self._asked > self._answered, pace)
                stopping, asked = self._stopping, self._asked
            try:
                pace = self._step() or PACE_S
                failures = 0
                done = True
            except Exception as error:
                failures += 1
                done = False
                pace = min(_MAX_BACK_OFF_S, PACE_S * 2**failures)
                if failures == 1 or not isinstance(error, OpenRouterAuditError):
                    logger.warning("%s: %s: %s", self._name, type(error).__name__, error)
                if not stopping:
                    time.sleep(min(pace, PACE_S))
            with self._condition:
                if done:
                    self._answered = asked
                    self._condition.notify_all()
            if stopping:
                break
        self._on_stop()
        with self._condition:
            self._thread = None
            self._condition.notify_all()


class SequencerWorker:
    """Sequences a home while this process holds its lease; wakes those who follow."""

    def __init__(self, home: Home, on_commit: Callable[[int], None]) -> None:
        self._home = home
        self._on_commit = on_commit
        self._lease = Lease(home.lease_path)
        self._sequencer: Sequencer | None = None
        self.tree_size = 0
        self._worker = Worker("openrouter-audit-sequencer", self._step, self._stop)
        _WORKERS.add(self)

    @property
    def holds_lease(self) -> bool:
        return self._lease.held

    def start(self) -> None:
        if self._worker.is_inherited:
            self.after_fork_in_child()  # again, for forks that ran no handlers
        self._worker.start()

    def wake(self) -> None:
        self._worker.wake()

    def drain(self, timeout: float) -> bool:
        """Wait until all that is spooled now is committed by this process; False where it could not be."""
        return self._worker.wait(timeout) and self._lease.held

    def stop(self, timeout: float | None = None) -> None:
        """One last look at the spool, then the lease is given up."""
        self._worker.stop(timeout)

    def _step(self) -> float | None:
        if not self._lease.acquire():
            return None
        if self._sequencer is None:
            try:
                self._sequencer = Sequencer(self._home)
            except BaseException:
                self._lease.release()  # whoever mends this home needs it
                raise
        size = self._sequencer.drain()
        if size != self.tree_size:
            self.tree_size = size
            self._on_commit(size)
        return None

    def _stop(self) -> None:
        if self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None
        self._lease.release()

    def after_fork_in_child(self) -> None:
        """
        A child has neither the thread nor a right to the parent's connections: not even closing them is safe.

        The segments that the parent reads are closed: its locks on those that are finished would live on in the child,
        and keep every other sequencer, the child's own too, from ever seeing them finished.
        """
        self._lease.release()
        if self._sequencer is not None:
            self._sequencer._reader.close()  # noqa: SLF001 - plain files; the rest of it is left as it is
            _INHERITED.append(self._sequencer)
            self._sequencer = None


class FollowerWorker:
    """Keeps one follower up to date in a thread of its own: a sick one slows nobody else."""

    def __init__(self, name: str, open_follower: Callable[[], Follower]) -> None:
        self._open = open_follower
        self._follower: Follower | None = None
        self.tree_size = 0
        self._worker = Worker(f"openrouter-audit-{name}", self._step, self._stop)
        _WORKERS.add(self)

    def start(self) -> None:
        if self._worker.is_inherited:
            self.after_fork_in_child()  # again, for forks that ran no handlers
        self._worker.start()

    def wake(self) -> None:
        self._worker.wake()

    def follow(self, timeout: float) -> bool:
        """Wait until the follower has seen what is committed now."""
        return self._worker.wait(timeout)

    def stop(self, timeout: float | None = None) -> None:
        self._worker.stop(timeout)

    def _step(self) -> float | None:
        if self._follower is None:
            self._follower = self._open()
        self.tree_size = self._follower.follow()
        return _MAX_BACK_OFF_S  # it is woken by commits; this is only in case one was missed

    def _stop(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def after_fork_in_child(self) -> None:
        if self._follower is not None:
            _INHERITED.append(self._follower)
            self._follower = None


_WORKERS: weakref.WeakSet[SequencerWorker | FollowerWorker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for worker in list(_WORKERS):
        worker.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

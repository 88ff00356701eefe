"""
The hot path: one frame, one `writev`, no lock (DESIGN section 2.2).

An application thread, a garbage collector's finaliser inside an append and a signal handler may all be here at once.
A lock would deadlock the second, so there is none: sequence numbers come from one atomic counter, `O_APPEND` orders the
writes, and the current segment is one attribute that is replaced whole. When two threads replace it at once both new
segments are used and the loser's is simply the older one.

A record is acknowledged when its `writev` returned with the full length: then it has left the process and survives
`kill -9`. A short write is not an acknowledgement; the frame is written again, whole, in a new segment, and names the
torn one, so that readers know those bytes to be no loss.

The writer holds `flock(LOCK_SH)` on its segment for life. A segment that was rotated away stays locked for as long as
anybody holds it: an exchange keeps the segment of its intent until its outcome is written (C27), and reference counting
does the rest. The kernel drops the lock with the process, however that ends: this, and nothing else, makes a segment
*finished*.

A forked child inherits segments it must not write to. Every append compares the pid; the child opens its own segment,
closes what it inherited so as not to keep the parent's lock alive, and is mute for exchanges the parent began.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import platform
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from openrouter_audit.core.entries import Facts, LogClosed, LogConfig, LogOpened, Mode, Private
from openrouter_audit.errors import AuditUnavailable, SpoolError
from openrouter_audit.journal.sealing import new_segment_cipher
from openrouter_audit.journal.segments import (
    FRAME_HEAD_BYTES,
    MARKER_BYTES,
    MAX_FRAME_BYTES,
    SUFFIX,
    SegmentHeader,
    frame_head,
)
from openrouter_audit.journal.writer_state import WriterState

ROTATE_BYTES: Final = 16 * 1024 * 1024
"""Small enough that a long-lived process gives disk space back, large enough that a rotation is rare."""
ROTATE_SECONDS: Final = 3600.0
BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""Outcomes that wait in memory while the disk takes nothing."""
_PARTIAL_SUFFIX: Final = ".new"

_ENCODE = msgspec.msgpack.Encoder().encode
_MAX_MSGPACK_INTEGER = 2**63 - 1
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Segment:
    """A segment file being written. Keeping a reference keeps it locked, and so unfinished."""

    __slots__ = (
        "__weakref__",
        "_cipher",
        "_descriptor",
        "_sequence",
        "_sync_lock",
        "_synced",
        "_tickets",
        "failed",
        "header",
        "name",
        "opened_s",
        "pid",
        "state",
        "written",
    )

    def __init__(self, directory: Path, state_directory: Path, public_key: bytes, process: bytes, ordinal: int) -> None:
        identity = os.urandom(16)
        sealed_key, self._cipher = new_segment_cipher(public_key, identity)
        self.header = SegmentHeader(
            segment=identity,
            process=process,
            ordinal=ordinal,
            created_us=time.time_ns() // 1000,
            marker=os.urandom(MARKER_BYTES),
            sealed_key=sealed_key,
        )
        self.name = identity.hex()
        self.pid = os.getpid()
        self.failed = False
        self.opened_s = time.monotonic()
        self._sequence = itertools.count()
        self._sync_lock = threading.Lock()
        self._tickets = itertools.count()
        self._synced = -1
        self._descriptor = -1
        self.state = WriterState(state_directory / self.name)
        self._descriptor = _create_locked(directory, self.name, self.header.encode())
        self.written = 0

    def append(self, plain: bytes) -> int:
        """
        Write one frame and return its sequence number.

        Raises:
            SpoolError: It was not acknowledged; nothing more is written to this segment. `seq` tells which number it
                had, so that the frame that replaces it can name it.
        """
        seq = next(self._sequence)
        sealed = self._cipher.seal(seq, plain)
        head = frame_head(self.header.marker, seq, sealed)
        length = len(sealed) + FRAME_HEAD_BYTES
        if length > MAX_FRAME_BYTES:
            raise SpoolError(f"a frame of {length} bytes", reason="frame_too_large", seq=seq)
        try:
            written = os.writev(self._descriptor, (head, sealed))
        except OSError as error:
            self.failed = True
            raise SpoolError(
                f"segment {self.name}: {error.strerror}", reason="write", errno=error.errno, seq=seq
            ) from error
        if written != length:
            self.failed = True
            raise SpoolError(f"segment {self.name}: {written} of {length} bytes", reason="short_write", seq=seq)
        self.written += length
        self.state.acknowledge(seq)
        return seq

    def sync(self) -> None:
        """
        Return when everything that was appended before the call is on the disk. One sync serves all who wait.

        Raises:
            SpoolError: It may not be. A failed sync is final (the kernel may have forgotten the pages): the segment is
                retired.
        """
        mine = next(self._tickets)  # taken after our write returned: a sync with a later ticket covers it
        with self._sync_lock:
            if self._synced > mine:
                return
            ticket = next(self._tickets)
            try:
                _fdatasync(self._descriptor)
            except OSError as error:
                self.failed = True
                raise SpoolError(f"segment {self.name}: {error.strerror}", reason="sync", errno=error.errno) from error
            self._synced = ticket

    def close(self) -> None:
        """Give the lock up, unless another process holds it as well."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class Spool:
    """
    Where a process puts what happened: implements the recorder that capture and enrichment write to.

    Safe in any thread, in finalisers and after a fork. `settings`, where given, is written once at the start of each
    process: a change of settings between two runs is then an entry. `on_process_start` is called after the first segment of
    a process is made, which in a forked child is its first record.
    """

    def __init__(
        self,
        directory: Path,
        state_directory: Path,
        public_key: bytes,
        *,
        mode: Mode = "buffer",
        policy: str | None = None,
        max_bytes: int = 1024**3,
        recorder: str = "openrouter-audit",
        settings: LogConfig | None = None,
        on_process_start: Callable[[], None] | None = None,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        self.mode: Mode = mode
        self.policy = policy
        self._directory, self._state_directory = directory, state_directory
        self._public_key = public_key
        self._max_bytes = max_bytes
        self._rotate_bytes = rotate_bytes
        self._recorder = recorder
        self._settings = settings
        self._on_process_start = on_process_start
        self._segments: weakref.WeakSet[Segment] = weakref.WeakSet()
        self._closed = False
        self._begin_process()
        _SPOOLS.add(self)

    def _begin_process(self) -> None:
        """Start as a process of its own: at creation, and again in a forked child."""
        for inherited in list(self._segments):
            inherited.close()
        self._segments = weakref.WeakSet()
        self._pid = os.getpid()
        self._process = os.urandom(16)
        self._ordinals = itertools.count()
        self._current: Segment | None = None
        self._backlog: deque[tuple[bytes, Segment]] = deque()  # with the intent's segment, to keep it locked
        self._backlog_bytes = 0

    # The recorder -----------------------------------------------------------------------------------------------

    def write(self, facts: Facts, private: Private | None = None, *, follows: object | None = None) -> Segment | None:
        """
        Write one record; when this returns it has left the process.

        Args:
            follows: What `write` returned for the intent, when this is its outcome.

        Returns:
            A token that the exchange keeps until its outcome is written.

        Raises:
            AuditUnavailable: Nothing was written. Never raised where `follows` is given: the caller's answer may not
                fail for our sake, so the record waits in memory, is tried again with every later one, and is counted as
                lost when it cannot even wait.
        """
        if os.getpid() != self._pid:
            self._begin_process()
        if follows is not None and (not isinstance(follows, Segment) or follows.pid != self._pid):
            return None  # begun by the parent of a fork: it speaks for this exchange
        plain = _encode(facts, private)
        if self._backlog:
            self.retry_backlog()
        try:
            return self._append(plain)
        except (SpoolError, OSError) as error:
            if follows is None:
                reason = error.reason if isinstance(error, SpoolError) else "write"
                raise AuditUnavailable(f"the spool took no record: {error}", reason=reason) from error
            self._wait_in_memory(plain, follows)
            return None

    def sync(self, token: object) -> None:
        """
        Return when what was written to this segment is on the disk (strict mode). Blocks.

        Raises:
            AuditUnavailable: It is not known to be.
        """
        if isinstance(token, Segment) and token.pid == os.getpid():
            try:
                token.sync()
            except SpoolError as error:
                raise AuditUnavailable(f"the spool could not be synced: {error}", reason=error.reason) from error

    def retry_backlog(self) -> int:
        """Write what waits in memory; returns how many records still do."""
        while self._backlog:
            try:
                waiting = self._backlog.popleft()
            except IndexError:  # another thread took the last one
                break
            try:
                self._append(waiting[0])
            except (SpoolError, OSError):
                self._backlog.appendleft(waiting)
                break
            self._backlog_bytes -= len(waiting[0])
        return len(self._backlog)

    @property
    def waiting(self) -> int:
        """Records that no disk has taken yet."""
        return len(self._backlog)

    @property
    def has_written(self) -> bool:
        """Whether this process has written anything."""
        return self._current is not None

    @property
    def process(self) -> str:
        """The random name of this process, as in `log.opened`."""
        return self._process.hex()

    def end(self, *, closing: bool) -> None:
        """
        Say that this process stops on purpose, and give up its segment.

        Args:
            closing: Refuse what comes after. At the end of an interpreter nobody can know what still comes, and it is
                taken.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self.retry_backlog()
        if self._current is not None:
            with contextlib.suppress(SpoolError, OSError):
                ended = LogClosed(v=1, id=os.urandom(16).hex(), at_us=time.time_ns() // 1000, process=self.process)
                self._append(_ENCODE((ended, None, None)))
        self._closed = closing
        self._current = None

    # Segments ---------------------------------------------------------------------------------------------------

    def _append(self, plain: bytes) -> Segment:
        segment = self._current
        if segment is None or segment.failed or self._due(segment):
            segment = self._open_segment()
        try:
            segment.append(plain)
            return segment
        except SpoolError as error:
            if error.reason == "frame_too_large":
                raise
            torn = (segment.name, error.seq)
        # A crash here leaves a torn frame that was never acknowledged: readers skip it.
        replacing = msgspec.msgpack.decode(plain, type=list[msgspec.Raw])
        replacement = self._open_segment()
        replacement.append(_ENCODE((replacing[0], replacing[1], torn)))
        return replacement

    def _due(self, segment: Segment) -> bool:
        return segment.written >= self._rotate_bytes or time.monotonic() - segment.opened_s > ROTATE_SECONDS

    def _open_segment(self) -> Segment:
        if self._closed:
            raise SpoolError("this recorder was closed", reason="closed")
        used = sum(_size_of(entry) for entry in os.scandir(self._directory))
        if used >= self._max_bytes:
            raise SpoolError(f"{used} bytes wait to be sequenced, the bound is {self._max_bytes}", reason="full")
        segment = Segment(self._directory, self._state_directory, self._public_key, self._process, next(self._ordinals))
        opened = LogOpened(
            v=1,
            id=os.urandom(16).hex(),
            at_us=segment.header.created_us,
            recorder=self._recorder,
            python=f"python/{platform.python_version()}",
            process=self.process,
            ordinal=segment.header.ordinal,
            mode=self.mode,
            policy=self.policy,
        )
        segment.append(_ENCODE((opened, Private(host=socket.gethostname(), pid=segment.pid), None)))
        if self._settings is not None and segment.header.ordinal == 0:
            settings = msgspec.structs.replace(self._settings, id=os.urandom(16).hex(), at_us=opened.at_us)
            segment.append(_ENCODE((settings, None, None)))
        if self.mode == "strict":
            segment.sync()
            _sync_directory(self._directory)
        self._segments.add(segment)
        self._current = segment
        if segment.header.ordinal == 0 and self._on_process_start is not None:
            self._on_process_start()
        return segment

    def _wait_in_memory(self, plain: bytes, follows: Segment) -> None:
        if self._backlog_bytes + len(plain) <= BACKLOG_BYTES:
            self._backlog_bytes += len(plain)
            self._backlog.append((plain, follows))
        else:
            follows.state.lose(1, time.time_ns() // 1000)


def _encode(facts: Facts, private: Private | None) -> bytes:
    try:
        return _ENCODE((facts, private, None))
    except (UnicodeEncodeError, OverflowError):
        return _ENCODE(_encodable((msgspec.to_builtins(facts), msgspec.to_builtins(private), None)))


def _encodable(value: Any) -> Any:
    """With lone surrogates replaced and numbers nobody can store left out: a strange value may not cost the record."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) > _MAX_MSGPACK_INTEGER:
        return None
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(member) for member in value]
    return value


_SPOOLS: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for spool in list(_SPOOLS):
        spool._begin_process()  # noqa: SLF001 - same module: the hook belongs to the class


os.register_at_fork(after_in_child=_after_fork_in_child)


def _create_locked(directory: Path, name: str, header: bytes) -> int:
    """
    Make a segment file that is never visible under its name without its lock and its header.

    A crash before the rename leaves a `.new` file that holds nothing; the sequencer removes old ones.
    """
    partial = directory / (name + _PARTIAL_SUFFIX)
    descriptor = os.open(partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.write(descriptor, header) != len(header):
            raise SpoolError(f"segment {name}: its header was cut short", reason="short_write")
        partial.rename(directory / (name + SUFFIX))
    except BaseException:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
        raise
    return descriptor


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # deleted by the sequencer meanwhile
        return 0


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

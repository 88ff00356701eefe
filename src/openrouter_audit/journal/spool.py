"""
The hot path: one frame, one `writev`, no lock (DESIGN section 2.2).

An application thread, a garbage collector's finaliser inside an append and a signal handler may all be here at once.
A lock would deadlock the second, so there is none: sequence numbers come from one atomic counter, `O_APPEND` orders the
writes, and the current segment is the newest in a heap, whose push is one step of the interpreter. When two threads
make a segment at once both are used, and whichever has the higher ordinal is the current one, so that an outcome never
stands in an older segment than its intent (C27).

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
import heapq
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
from msgspec import Struct

from openrouter_audit.core.entries import Facts, LogClosed, LogConfig, LogOpened, Mode, Private, kind_of
from openrouter_audit.core.vocabulary import admit, admit_private
from openrouter_audit.errors import AuditUnavailable, SpoolError
from openrouter_audit.journal.files import sync_directory
from openrouter_audit.journal.sealing import OVERHEAD_BYTES, new_segment_cipher
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
_DEEPEST: Final = 8
_LONGEST_PLAIN: Final = MAX_FRAME_BYTES - FRAME_HEAD_BYTES - OVERHEAD_BYTES - 64  # room to name the frame it replaces
_LONGEST_TEXT: Final = 16 * 1024
"""Of free text in a record that fits into no frame."""
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Segment:
    """A segment file being written. Keeping a reference keeps it locked, and so unfinished."""

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_marker",
        "_seal",
        "_sequence",
        "_sync_failed",
        "_sync_lock",
        "_synced",
        "_tickets",
        "failed",
        "header",
        "name",
        "pid",
        "rotate_s",
        "state",
        "written",
    )

    def __init__(self, directory: Path, state_directory: Path, public_key: bytes, process: bytes, ordinal: int) -> None:
        self._descriptor = -1
        identity = os.urandom(16)
        sealed_key, cipher = new_segment_cipher(public_key, identity)
        self._seal = cipher.seal
        self.header = SegmentHeader(
            segment=identity,
            process=process,
            ordinal=ordinal,
            created_us=time.time_ns() // 1000,
            marker=os.urandom(MARKER_BYTES),
            sealed_key=sealed_key,
        )
        self._marker = self.header.marker
        self.name = identity.hex()
        self.pid = os.getpid()
        self.failed = False
        self.rotate_s = time.monotonic() + ROTATE_SECONDS
        self._sequence = itertools.count()
        self._sync_lock = threading.Lock()
        self._tickets = itertools.count()
        self._synced = -1
        self._sync_failed = False
        self.written = 0
        partial, state_path = directory / (self.name + _PARTIAL_SUFFIX), state_directory / self.name
        try:
            # A crash before the rename leaves one or both files, which say nothing; the sequencer removes old ones.
            self._descriptor = _create_locked(partial, self.header.encode())
            self.state = WriterState(state_path)
            partial.rename(directory / (self.name + SUFFIX))
        except BaseException:
            partial.unlink(missing_ok=True)
            state_path.unlink(missing_ok=True)
            raise

    def append(self, plain: bytes) -> int:
        """
        Write one frame and return its sequence number.

        Raises:
            SpoolError: It was not acknowledged; nothing more is written to this segment. `seq` tells which number it
                had, so that the frame that replaces it can name it.
        """
        seq = next(self._sequence)
        sealed = self._seal(seq, plain)
        head = frame_head(self._marker, seq, sealed)
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
            if self._sync_failed:
                raise SpoolError(f"segment {self.name}: an earlier sync failed", reason="sync")
            ticket = next(self._tickets)
            try:
                _fdatasync(self._descriptor)
            except OSError as error:
                self.failed = self._sync_failed = True
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
        self._newest: list[tuple[int, Segment]] = []  # a heap by minus the ordinal
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
        try:
            plain = _ENCODE((facts, private, None))
        except (UnicodeEncodeError, OverflowError, RecursionError, TypeError):
            plain = _ENCODE((plain_values(facts), None if private is None else plain_values(private), None))
        if len(plain) > _LONGEST_PLAIN:
            plain = _trimmed(facts, private)
        if self._backlog:
            self.retry_backlog()
        try:
            return self._append(plain, follows)
        except Exception as error:
            reason = error.reason if isinstance(error, SpoolError) else "write"
            if follows is None:
                raise AuditUnavailable(f"the spool took no record: {error}", reason=reason) from error
            if reason == "frame_too_large":  # waiting would not make it smaller
                follows.state.lose(1, time.time_ns() // 1000)
            else:
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
                self._append(*waiting)
            except Exception:
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
        return bool(self._newest)

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
        if self._newest:
            with contextlib.suppress(Exception):
                ended = LogClosed(v=1, id=os.urandom(16).hex(), at_us=time.time_ns() // 1000, process=self.process)
                self._append(_ENCODE((ended, None, None)))
        self._closed = closing
        self._newest = []

    # Segments ---------------------------------------------------------------------------------------------------

    def _append(self, plain: bytes, follows: Segment | None = None) -> Segment:
        newest = self._newest
        segment = newest[0][1] if newest else None
        if self._closed and follows is not None:
            segment = follows  # the recorder was closed while this call was under way
        if (
            segment is None
            or segment.failed
            or ((segment.written >= self._rotate_bytes or time.monotonic() > segment.rotate_s) and not self._closed)
        ):
            segment = self._open_segment(under_way=follows is not None)
        try:
            segment.append(plain)
            return segment
        except SpoolError as error:
            if error.reason == "frame_too_large":
                raise
            torn = (segment.name, error.seq)
        # A crash here leaves a torn frame that was never acknowledged: readers skip it.
        replacing = msgspec.msgpack.decode(plain, type=list[msgspec.Raw])
        replacement = self._open_segment(under_way=follows is not None)
        replacement.append(_ENCODE((replacing[0], replacing[1], torn)))
        return replacement

    def _open_segment(self, *, under_way: bool = False) -> Segment:
        if self._closed and not under_way:
            raise SpoolError("this recorder was closed", reason="closed")
        used = sum(_size_of(entry) for entry in os.scandir(self._directory))
        if used >= self._max_bytes:
            raise SpoolError(f"{used} bytes wait to be sequenced, the bound is {self._max_bytes}", reason="full")
        segment = Segment(self._directory, self._state_directory, self._public_key, self._process, next(self._ordinals))
        self._segments.add(segment)
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
        try:
            segment.append(_ENCODE((opened, Private(host=socket.gethostname(), pid=segment.pid), None)))
        except SpoolError:
            # Nothing in it was acknowledged: a disk that stays full shall not fill with such beginnings.
            (self._directory / (segment.name + SUFFIX)).unlink(missing_ok=True)
            (self._state_directory / segment.name).unlink(missing_ok=True)
            raise
        if self._settings is not None and segment.header.ordinal == 0:
            settings = msgspec.structs.replace(self._settings, id=os.urandom(16).hex(), at_us=opened.at_us)
            segment.append(_ENCODE((settings, None, None)))
        if self.mode == "strict":
            segment.sync()
            sync_directory(self._directory)
        if not self._closed:
            newest = self._newest
            heapq.heappush(newest, (-segment.header.ordinal, segment))
            del newest[1:]
        if segment.header.ordinal == 0 and self._on_process_start is not None:
            self._on_process_start()
        return segment

    def _wait_in_memory(self, plain: bytes, follows: Segment) -> None:
        if self._backlog_bytes + len(plain) <= BACKLOG_BYTES:
            self._backlog_bytes += len(plain)
            self._backlog.append((plain, follows))
        else:
            follows.state.lose(1, time.time_ns() // 1000)


def _trimmed(facts: Facts, private: Private | None) -> bytes:
    """What fits into a frame of a record that does not: its vocabulary applied here, long free text left out."""
    raw = plain_values(facts)
    if private is not None:
        parts = {name: value for name, value in plain_values(private).items() if len(_ENCODE(value)) <= _LONGEST_TEXT}
        if len(parts) < len(private.__struct_fields__):
            raw["anomalies"] = [*raw.get("anomalies", ()), "private"]
        private = admit_private(parts)
    admitted = admit(raw)
    return _ENCODE((raw if admitted is None else admitted, private, None))


def plain_values(record: Struct) -> dict[str, Any]:
    """The fields of a record as msgpack can carry them, and as `admit` takes them."""
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    plain: dict[str, Any] = _encodable(values)
    if isinstance(record, Facts):
        plain["kind"] = kind_of(record)
    return plain


def _encodable(value: Any, depth: int = 0) -> Any:
    """
    With lone surrogates replaced, and left out what nobody can store: a strange value may not cost the record.

    That is numbers beyond 64 bits, objects of a kind msgpack has no form for, and what is nested deeper than any entry.
    """
    if depth > _DEEPEST:
        return None
    if isinstance(value, Struct):
        return {name: _encodable(getattr(value, name), depth + 1) for name in value.__struct_fields__}
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) > _MAX_MSGPACK_INTEGER:
        return None
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member, depth + 1) for key, member in value.items() if isinstance(key, str)}
    if isinstance(value, (list, tuple)):
        return [_encodable(member, depth + 1) for member in value]
    return value if value is None or isinstance(value, (bytes, bool, int, float)) else None


_SPOOLS: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for spool in list(_SPOOLS):
        spool._begin_process()  # noqa: SLF001 - same module: the hook belongs to the class


os.register_at_fork(after_in_child=_after_fork_in_child)


def _create_locked(partial: Path, header: bytes) -> int:
    """Make a file with its lock and its header, to be renamed then: it is never visible as a segment without them."""
    descriptor = os.open(partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.write(descriptor, header) != len(header):
            raise SpoolError("the header of a segment was cut short", reason="short_write")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # deleted by the sequencer meanwhile
        return 0

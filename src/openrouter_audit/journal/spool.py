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

A forked child inherits segments it must not write to. It closes them, so as not to keep the parent's locks alive, makes its
own, and is mute for exchanges the parent began. The fork may come in the middle of a write: in another thread, which is not
there in the child, or in a signal handler that returns into the write. So a write belongs to the process that began it: to a
child a closed segment fails, and where a file would be made, renamed or removed the pid is compared (`forks.py` has the rest).

What no segment takes is never simply gone (DESIGN section 6). An outcome waits in memory (backlog.py), then takes the space of the
reserve (reserve.py), then is counted in the page of its segment (writer_state.py). An intent is refused, or in `best_effort`
counted; then its outcome is not written either, and is counted as well: in the log stands the whole of a call, or a loss.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import logging
import os
import platform
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from openrouter_audit.core.entries import (
    CallIntent,
    Facts,
    LogClosed,
    LogConfig,
    LogLoss,
    LogOpened,
    Mode,
    Private,
)
from openrouter_audit.errors import AuditUnavailable, SpoolError
from openrouter_audit.journal.backlog import BACKLOG_BYTES, Backlog, naming, taken
from openrouter_audit.journal.files import sync_directory
from openrouter_audit.journal.forks import no_fork
from openrouter_audit.journal.plain import plain_values, trimmed
from openrouter_audit.journal.reserve import RESERVE_BYTES, Reserve
from openrouter_audit.journal.sealing import OVERHEAD_BYTES, new_segment_cipher
from openrouter_audit.journal.segments import (
    FRAME_HEAD_BYTES,
    MARKER_BYTES,
    MAX_FRAME_BYTES,
    SUFFIX,
    SegmentHeader,
    frame_head,
)
from openrouter_audit.journal.writer_state import LossCounts, LossReason, WriterState

logger = logging.getLogger("openrouter_audit")

ROTATE_BYTES: Final = 16 * 1024 * 1024
"""Small enough that a long-lived process gives disk space back, large enough that a rotation is rare."""
ROTATE_SECONDS: Final = 3600.0
RETRY_SECONDS: Final = 1.0
"""How often what waits in memory is tried again when nothing else is written."""
WARN_SHARE: Final = 0.1
"""Of the bound: from here on somebody should look whether anybody sequences."""
BODIES_SHARE: Final = 0.5
"""Of the bound: from here on bodies are left out, facts never."""
_SEGMENTS_IN_BOUND: Final = 16
"""A segment is at most this part of the bound, which is only looked at when one is made."""
_PARTIAL_SUFFIX: Final = ".new"
_NEW_FILE: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_ENCODE = msgspec.msgpack.Encoder().encode
_LONGEST_PLAIN: Final = MAX_FRAME_BYTES - FRAME_HEAD_BYTES - OVERHEAD_BYTES - 256  # room to name what it replaces
_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Segment:
    """A segment file being written. Keeping a reference keeps it locked, and so unfinished."""

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_encrypt",
        "_marker",
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

    def __init__(
        self,
        directory: Path,
        state_directory: Path,
        public_key: bytes,
        process: bytes,
        ordinal: int,
        *,
        pid: int,
        inherited: weakref.WeakSet[Segment],
    ) -> None:
        """`pid` is the process that makes it, and `inherited` what a child of that closes."""
        self._descriptor = -1
        self.pid = pid
        inherited.add(self)  # before there is a descriptor
        identity = os.urandom(16)
        # The first one of a process imports, and a module that a fork finds half imported is locked in the child for good.
        with no_fork():
            sealed_key, cipher = new_segment_cipher(public_key, identity)
        self._encrypt = cipher.encrypt
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
            with no_fork():
                _check_process(pid)
                self._descriptor = os.open(partial, _NEW_FILE, 0o600)
            # It gets its name only with its lock and its header: it is never visible as a segment without them.
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            header = self.header.encode()
            if os.write(self._descriptor, header) != len(header):
                raise SpoolError("the header of a segment was cut short", reason="short_write")
            _check_process(pid)
            self.state = WriterState(state_path)
            _check_process(pid)
            partial.rename(directory / (self.name + SUFFIX))
        except BaseException:
            self.close()
            if os.getpid() == pid:  # else the files are the parent's
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
        sealed = self._encrypt(seq.to_bytes(12), plain, self.header.segment)
        head = frame_head(self._marker, seq, sealed)
        length = len(sealed) + FRAME_HEAD_BYTES
        if length > MAX_FRAME_BYTES:
            self.state.fail(seq)
            raise SpoolError(f"a frame of {length} bytes", reason="frame_too_large", seq=seq)
        try:
            written = os.writev(self._descriptor, (head, sealed))
        except OSError as error:
            _check_process(self.pid)  # the page is shared with the parent
            self.failed = True
            self.state.fail(seq)
            raise SpoolError(
                f"segment {self.name}: {error.strerror}", reason="write", errno=error.errno, seq=seq
            ) from error
        if written != length:
            self.failed = True
            self.state.fail(seq)
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
            except ValueError:  # there is none any more
                _check_process(self.pid)
                raise
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


@dataclass(frozen=True, slots=True)
class LostIntent:
    """The token of a call that goes on unrecorded (`best_effort`): its outcome is counted, not written."""

    pid: int


class Spool:
    """
    Where a process puts what happened: implements the recorder that capture and enrichment write to.

    Safe in any thread, in finalisers and after a fork. `settings`, where given, is written once at the start of each
    process: a change of settings between two runs is then an entry. `on_process_start` is called once in each process, after the
    first segment was made or could not be: where the spool is full it is the sequencer that makes room.
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
        backlog_bytes: int = BACKLOG_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        retry_s: float | None = RETRY_SECONDS,
    ) -> None:
        self.mode: Mode = mode
        self.policy = policy
        self._directory, self._state_directory = directory, state_directory
        self._public_key = public_key
        self._max_bytes = max_bytes
        self._rotate_bytes = min(rotate_bytes, max_bytes // _SEGMENTS_IN_BOUND)
        self._backlog_bytes = backlog_bytes
        self._retry_s = retry_s
        self._reserve = Reserve(
            state_directory.with_name("reserve"), min(reserve_bytes, max_bytes // _SEGMENTS_IN_BOUND)
        )
        self._recorder = recorder
        self._settings = settings
        self._on_process_start = on_process_start
        self.drops_bodies = False
        """Whether the spool was so full, when a segment was last made, that bodies may not go into it."""
        self._warned = self._losing = False
        self._segments: weakref.WeakSet[Segment] = weakref.WeakSet()
        self._closed = False
        self._begin_process()
        _SPOOLS.add(self)

    def _begin_process(self) -> None:
        """Start as a process of its own: at creation, and again in a forked child."""
        for inherited in list(self._segments):  # also those that another thread of the parent was making
            inherited.close()
        self._segments = weakref.WeakSet()
        self._pid = os.getpid()
        self._process = os.urandom(16)
        self._ordinals = itertools.count()
        self._newest: list[tuple[int, Segment]] = []  # a heap by minus the ordinal
        self._backlog = Backlog(self._backlog_bytes)
        self._uncounted = LossCounts()  # losses that no page could be made for; poured into the first one there is
        self._counting: Segment | None = None  # made for its page alone, when nothing may be written
        # Things to be done once in a process: whoever takes the token out does it, and puts it back where it failed.
        self._start_due, self._settings_due = deque([True]), deque([True])

    # The recorder -----------------------------------------------------------------------------------------------

    def write(
        self, facts: Facts, private: Private | None = None, *, follows: object | None = None
    ) -> Segment | LostIntent | None:
        """
        Write one record; when this returns it has left the process, or in `best_effort` may be counted as lost.

        Args:
            follows: What `write` returned for the intent, when this is its outcome.

        Returns:
            A token that the exchange keeps until its outcome is written.

        Raises:
            AuditUnavailable: Nothing was written. Never raised where `follows` is given: the caller's answer may not
                fail for our sake, so the record waits in memory, is tried again with every later one, and is counted as
                lost when it cannot even wait. Never raised for an intent in `best_effort`; other records of no call's
                own (a cost, an access) are refused in every mode: their writers try again, or must not go on.
        """
        pid = os.getpid()
        if pid != self._pid:
            self._begin_process()  # forked without Python's handlers
        if follows is not None and (not isinstance(follows, Segment) or follows.pid != self._pid):
            if isinstance(follows, LostIntent) and follows.pid == self._pid:
                self._count("no_intent")
            return None  # or begun by the parent of a fork: it speaks for this exchange
        if self.drops_bodies and private is not None:
            private = _without_body(private)
        try:
            plain = _ENCODE((facts, private, None))
        except (UnicodeEncodeError, OverflowError, RecursionError, TypeError):
            plain = _ENCODE((plain_values(facts), None if private is None else plain_values(private), None))
        if len(plain) > _LONGEST_PLAIN:
            plain = trimmed(facts, private)
        if self._backlog:
            self.retry_backlog()
        try:
            return self._append(plain, follows, pid)
        except Exception as error:
            if os.getpid() != pid:  # forked in the middle of it: the parent ends what it began
                return None if follows is not None else LostIntent(pid)
            return self._not_taken(facts, plain, follows, error)

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
        return self._backlog.retry(self._append)

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
        pid = os.getpid()
        if self._closed or pid != self._pid:
            return
        if self.retry_backlog() and self._reserve.free():
            self.retry_backlog()
        self._place_counts()
        if self._newest:
            with contextlib.suppress(Exception):
                ended = LogClosed(v=1, id=os.urandom(16).hex(), at_us=_now_us(), process=self.process)
                self._append(_ENCODE((ended, None, None)), pid=pid)
        self._closed = closing
        self._newest = []
        self._counting = None
        if self._backlog:
            # Their segments count them as lost with this process, which is now true, or will be when it is gone.
            logger.warning("%d outcomes could not be written; they are counted as lost", len(self._backlog))
            if closing:
                self._backlog.clear()

    # Segments ---------------------------------------------------------------------------------------------------

    def _append(self, plain: bytes, follows: Segment | None = None, pid: int = 0) -> Segment:
        """Write what the process `pid` has to say; where it follows something, the process that began that."""
        if follows is not None:
            pid = follows.pid
        newest = self._newest
        segment = newest[0][1] if newest else None
        if follows is not None and (self._closed or segment is None):
            # The recorder was closed, or the interpreter is ending and can no longer make a segment, while this call was under way.
            segment = follows
        if (
            segment is None
            or segment.pid != pid
            or segment.failed
            or ((segment.written >= self._rotate_bytes or time.monotonic() > segment.rotate_s) and not self._closed)
        ):
            segment = self._open_segment(pid, under_way=follows is not None)
        try:
            segment.append(plain)
            return segment
        except SpoolError as error:
            if error.reason == "frame_too_large" or error.seq is None:
                raise
            seq = error.seq
        # A crash here leaves a torn frame that was never acknowledged: readers skip it.
        replacement = self._open_segment(pid, under_way=follows is not None)
        replacement.append(naming(plain, segment.name, seq))
        return replacement

    def _open_segment(self, pid: int, *, under_way: bool = False, for_counts: bool = False) -> Segment:
        """
        Make a segment, and make it the current one.

        Args:
            pid: The process that wants it: a child forked meanwhile does not.
            under_way: What goes into it belongs to a call that has begun: also a closed recorder takes it.
            for_counts: Only its page is wanted: the bound does not count, and nothing more is written to it.
        """
        _check_process(pid)
        if self._closed and not under_way:
            raise SpoolError("this recorder was closed", reason="closed")
        try:
            if not for_counts:
                self._keep_bound()
            return self._make_segment(pid, for_counts=for_counts)
        finally:
            if self._on_process_start is not None and taken(self._start_due):
                self._on_process_start()

    def _keep_bound(self) -> None:
        used = sum(_size_of(entry) for entry in os.scandir(self._directory))
        self.drops_bodies = used >= self._max_bytes * BODIES_SHARE
        above = used >= self._max_bytes * WARN_SHARE
        if above and not self._warned:
            logger.warning(
                "%d bytes wait to be sequenced, the bound is %d: is anybody sequencing?", used, self._max_bytes
            )
        self._warned = above
        if used + self._reserve.bytes >= self._max_bytes:  # giving the reserve up makes room under the bound as well
            raise SpoolError(f"{used} bytes wait to be sequenced, the bound is {self._max_bytes}", reason="full")

    def _make_segment(self, pid: int, *, for_counts: bool) -> Segment:
        newest, settings_due = self._newest, self._settings_due  # of this process, whatever forks meanwhile
        segment = Segment(
            self._directory,
            self._state_directory,
            self._public_key,
            self._process,
            next(self._ordinals),
            pid=pid,
            inherited=self._segments,
        )
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
        settings = self._settings if self._settings is not None and taken(settings_due) else None
        try:
            segment.append(_ENCODE((opened, Private(host=socket.gethostname(), pid=segment.pid), None)))
            if settings is not None:
                said = msgspec.structs.replace(settings, id=os.urandom(16).hex(), at_us=opened.at_us)
                segment.append(_ENCODE((said, None, None)))
            if self.mode == "strict":
                segment.sync()
                sync_directory(self._directory)
            _check_process(pid)
        except BaseException:
            if os.getpid() == pid:  # else the files are the parent's
                # Nothing of a caller's was acknowledged in it: a disk that stays full shall not fill with such beginnings.
                # The page first: alone it would tell of a first frame that is gone.
                (self._state_directory / segment.name).unlink(missing_ok=True)
                (self._directory / (segment.name + SUFFIX)).unlink(missing_ok=True)
            if settings is not None:
                settings_due.append(True)
            raise
        if for_counts:
            self._counting = segment
        elif not self._closed:
            heapq.heappush(newest, (-segment.header.ordinal, segment))
            del newest[1:]
            self._counting, self._losing = None, False
            self._reserve.ensure()
        # Only now: who counts in memory looks afterwards whether there is a page, and one of us sees the other.
        self._uncounted.pour_into(segment.state)
        return segment

    # What no segment takes --------------------------------------------------------------------------------------

    def _not_taken(self, facts: Facts, plain: bytes, follows: Segment | None, error: Exception) -> LostIntent | None:
        """
        What becomes of a record that could not be written (DESIGN section 6).

        Raises:
            AuditUnavailable: The mode forbids to go on without it.
        """
        word = error.reason if isinstance(error, SpoolError) else "write"
        if follows is not None:
            if word == "frame_too_large":  # waiting would not make it smaller
                follows.state.lose("too_large", _now_us())
            else:
                self._backlog.keep(plain, follows, write=self._append, reserve=self._reserve)
                if self._retry_s is not None:
                    self._backlog.retry_in_background(weakref.WeakMethod(self.retry_backlog), every_s=self._retry_s)
            return None
        if self.mode != "best_effort" or not isinstance(facts, (CallIntent, LogLoss)):
            raise AuditUnavailable(f"the spool took no record: {error}", reason=word) from error
        if not self._losing:
            self._losing = True
            # Its text alone: whoever keeps log records would keep the error's frames, and with them a segment.
            logger.warning("calls go on unrecorded, and are counted as lost: %s", str(error))
        if isinstance(facts, LogLoss):
            self._count("capture_fault", facts.count or 1)
            return None
        self._count(_loss_reason(word, error))
        return LostIntent(self._pid)

    def _count(self, reason: LossReason, count: int = 1) -> None:
        """
        Count what is lost and belongs to no segment in the page of the newest one.

        Where there is none, one is made for its page, in the space of the reserve if need be. Where even that fails the count
        stays in memory and is poured into the next page there is.
        """
        segment = self._with_page() or self._open_for_counts()
        if segment is not None:
            segment.state.lose(reason, _now_us(), count)
            return
        self._uncounted.lose(reason, _now_us(), count)
        segment = self._with_page()  # another thread may have made one meanwhile
        if segment is not None:
            self._uncounted.pour_into(segment.state)

    def _with_page(self) -> Segment | None:
        newest = self._newest
        return newest[0][1] if newest else self._counting

    def _open_for_counts(self) -> Segment | None:
        for _ in range(2):
            with contextlib.suppress(Exception):
                return self._open_segment(os.getpid(), under_way=True, for_counts=True)
            if not self._reserve.free():
                break
        return None

    def _place_counts(self) -> None:
        """At the end of a process: what is counted in memory goes to a page now, or is only said."""
        if self._uncounted.total:
            segment = self._with_page() or self._open_for_counts()
            if segment is not None:
                self._uncounted.pour_into(segment.state)
            else:
                logger.warning("%d records were lost, and no disk takes that count", self._uncounted.total)


def _without_body(private: Private) -> Private:
    content = private.content
    if content is None:
        return private
    return msgspec.structs.replace(private, content=msgspec.structs.replace(content, text=b"", cut="spool"))


def _loss_reason(word: str, error: Exception) -> LossReason:
    if word == "full":
        return "full"
    if word == "closed":
        return "closed"
    return "disk" if isinstance(error, (SpoolError, OSError)) else "fault"


def _now_us() -> int:
    return time.time_ns() // 1000


_SPOOLS: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for spool in list(_SPOOLS):
        spool._begin_process()  # noqa: SLF001 - same module: the hook belongs to the class


os.register_at_fork(after_in_child=_after_fork_in_child)


def _check_process(pid: int) -> None:
    """
    Go on only in this process.

    Raises:
        SpoolError: A signal handler has forked in the middle of a write and returned; this is the child.
    """
    if os.getpid() != pid:
        raise SpoolError("a fork came in between", reason="forked")


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # deleted by the sequencer meanwhile
        return 0

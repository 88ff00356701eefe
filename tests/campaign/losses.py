"""
A disk that fails by a schedule, and the harness's own book of what was handed to a spool.

`FaultyDisk` stands between the spool and the system: every `open`, `write`, `writev`, `rename` and sync below one home may fail, be cut
short, or be the last thing the process does. It also knows what a real disk would: where whole frames end, how far a file is synced,
which names are.

`Schedule` is the life of one process in that weather: it writes calls through a spool as a capture does, and notes each record
that was accepted. It ends by a kill, perhaps with a tail cut off or a byte changed as by a power cut, or on purpose. What
became of each record is told by the log alone: it stands there, or a `log.loss` counts it.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from tests.journal.homes import an_intent, an_outcome, new_spool, now_us

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.core.entries import CallCost, CallIntent
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.journal import spool as spool_module
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES
from openrouter_audit.journal.spool import LostIntent, Segment, Spool

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
MODES = ("buffer", "strict", "best_effort")
THREADS = 3
OF_INTENTS = ("full", "disk", "closed", "fault")
"""Reasons under which the intents of calls that went on are counted."""


class Crash(BaseException):
    """The process is gone: nothing after this touches the disk."""


class FaultyDisk:
    """Owned by one schedule at a time; several of its threads may be on it."""

    def __init__(self, home: Path) -> None:
        self._home = os.fspath(home)
        self._real = {name: getattr(os, name) for name in ("open", "write", "writev", "rename", "unlink", "fsync")}
        self._real_fdatasync = spool_module._fdatasync
        self.injected = 0
        self.begin(random.Random(0))

    def begin(self, rng: random.Random) -> None:
        """Forget everything: a new process on a healthy disk."""
        self._rng = rng
        self.fails, self.crashes = 0.0, 0.0
        """How likely each call fails, or never returns."""
        self.room: int | None = None
        """Bytes that the disk still takes; None: as many as you like."""
        self.dead = False
        self.whole: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        """Of each file, by inode, where its acknowledged frames begin and end."""
        self.synced: dict[int, int] = {}
        """How much of a file is on the disk whatever comes."""
        self._named: set[int] = set()
        self.durable_names: set[int] = set()

    @contextmanager
    def mounted(self):
        """As long as this lasts the spool's calls come here."""
        try:
            for name in self._real:
                setattr(os, name, getattr(self, f"_{name}"))
            spool_module._fdatasync = self._fdatasync
            yield self
        finally:
            for name, function in self._real.items():
                setattr(os, name, function)
            spool_module._fdatasync = self._real_fdatasync

    @contextmanager
    def healthy(self):
        """For what another process does meanwhile."""
        kept = self.fails, self.crashes, self.room
        self.fails, self.crashes, self.room = 0.0, 0.0, None
        yield
        self.fails, self.crashes, self.room = kept

    def _weather(self) -> None:
        """Whether this call fails, or never returns."""
        if self.dead:
            raise Crash
        if self.crashes and self._rng.random() < self.crashes:
            self.injected += 1
            self.dead = True
            raise Crash
        if self.fails and self._rng.random() < self.fails:
            self.injected += 1
            number = self._rng.choice(ERRORS)
            raise OSError(number, os.strerror(number))

    def _taken(self, length: int) -> int:
        """How many of these bytes the disk takes."""
        if self.fails and self._rng.random() < self.fails:
            self.injected += 1
            length = self._rng.randrange(length)
        if self.room is not None:
            if self.room <= 0:
                self.injected += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            length = min(length, self.room)
            self.room -= length
        return length

    def _open(self, path, flags, mode=0o777, **options):
        if os.fspath(path).startswith(self._home):
            self._weather()
        return self._real["open"](path, flags, mode, **options)

    def _write(self, descriptor, data):
        self._weather()
        return self._real["write"](descriptor, bytes(data)[: self._taken(len(data))])

    def _writev(self, descriptor, buffers):
        data = b"".join(buffers)
        try:
            self._weather()
        except Crash:  # killed inside: any part of it is there
            self._real["write"](descriptor, data[: self._rng.randrange(len(data) + 1)])
            raise
        written = self._real["write"](descriptor, data[: self._taken(len(data))])
        if written == len(data):
            if self.crashes and self._rng.random() < self.crashes:  # killed before anybody heard of it
                self.injected += 1
                self.dead = True
                raise Crash
            status = os.fstat(descriptor)
            self.whole[status.st_ino].append((status.st_size - len(data), status.st_size))
        return written

    def _rename(self, source, target):
        self._weather()
        self._named.add(os.stat(source).st_ino)
        self._real["rename"](source, target)

    def _unlink(self, path, **options):
        if self.dead:
            raise Crash
        size = os.stat(path).st_size if self.room is not None and os.path.exists(path) else 0
        self._real["unlink"](path, **options)
        if self.room is not None:
            self.room += size

    def _fsync(self, descriptor):
        self._weather()
        self.durable_names |= self._named

    def _fdatasync(self, descriptor):
        self._weather()
        status = os.fstat(descriptor)
        self.synced[status.st_ino] = status.st_size


@dataclass(slots=True)
class Book:
    """What one process handed over; a record is its kind and its id."""

    processes: set[str] = field(default_factory=set)
    accepted: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    in_flight: set[tuple[str, str]] = field(default_factory=set)
    """Never answered: the process was killed inside `write`. Such a record is in the log or not; a loss it is never."""
    lost_intents: int = 0
    outcomes_without: int = 0
    """Outcomes of calls whose intent was lost."""
    unplaced: int = 0
    """Counts that were in memory at the kill, because no page could be made."""
    unplaced_beside_a_page: bool = False
    threads: bool = False
    damaged: bool = False
    """By a power cut. Of a segment that threads wrote to at once its writer knows only the highest number it acknowledged, give or take
    those that were under way."""
    internal_gone: int = 0
    """First frames of segments, which are the spool's own, that the power cut took."""


class Schedule:
    """One process in its weather. `drain` is called now and then, on a healthy disk, while the process lives."""

    def __init__(self, home: Home, disk: FaultyDisk, seed: int, drain) -> None:
        self._home, self._disk, self._drain = home, disk, drain
        self._rng = random.Random(seed)
        self.book = Book()
        self._open: list[tuple[CallIntent, object]] = []
        self._drained = False

    def run(self) -> Book:
        rng, disk = self._rng, self._disk
        disk.begin(rng)
        spool = self._new_spool()
        ended = False
        with disk.mounted():
            try:
                for _ in range(rng.randrange(1, 5)):
                    self._change_weather()
                    if rng.random() < 0.1:
                        self._threads(spool)
                    else:
                        self._operations(spool, rng.randrange(1, 9))
                    if rng.random() < 0.05:
                        self._as_a_child(spool)
                if rng.random() < 0.5:
                    self._change_weather()
                    ended = True
                    spool.end(closing=rng.random() < 0.7)
                    self._operations(spool, rng.randrange(3))
            except Crash:
                pass
            self._kill(spool)
        if not ended and not self._drained and rng.random() < 0.3:
            self._cut_power()
        return self.book

    # What happens -----------------------------------------------------------------------------------------------

    def _new_spool(self) -> Spool:
        rng = self._rng
        used = sum(entry.stat().st_size for entry in os.scandir(self._home.spool_dir))
        spool = new_spool(
            self._home,
            mode=rng.choice(MODES),
            max_bytes=used + 60_000 if rng.random() < 0.15 else 1024**3,
            rotate_bytes=rng.choice((1_500, 5_000, 10**6)),
            backlog_bytes=rng.choice((700, 3_000, 10**6)),
            reserve_bytes=rng.choice((0, 12_000, 40_000)),
            retry_s=None,
        )
        self.book.processes.add(spool.process)
        return spool

    def _change_weather(self) -> None:
        rng, disk = self._rng, self._disk
        disk.fails, disk.crashes, disk.room = 0.0, 0.0, None
        kind = rng.random()
        if kind < 0.3:
            disk.fails = rng.choice((0.02, 0.2, 0.6, 1.0))
        elif kind < 0.6:
            disk.room = rng.choice((0, rng.randrange(400), rng.randrange(12_000)))
        elif kind < 0.75:
            disk.crashes = rng.choice((0.03, 0.2))

    def _operations(self, spool: Spool, count: int) -> None:
        rng = self._rng
        for _ in range(count):
            choice = rng.random()
            if choice < 0.5:
                self._begin(spool)
            elif choice < 0.9:
                self._end(spool)
            elif choice < 0.95:
                self._write(spool, CallCost(v=1, id=os.urandom(16).hex(), at_us=now_us(), state="unresolved"))
            elif choice < 0.98:
                spool.retry_backlog()
            elif not self._disk.dead:
                with self._disk.healthy():
                    self._drain()
                self._drained = True

    def _begin(self, spool: Spool) -> None:
        intent = an_intent()
        token = self._write(spool, intent)
        if token is None:
            return
        if isinstance(token, LostIntent):
            self.book.lost_intents += 1
        elif spool.mode == "strict":
            try:
                spool.sync(token)
            except AuditUnavailable:
                self._write(spool, an_outcome(intent, status="refused"), token)
                return
        self._open.append((intent, token))

    def _end(self, spool: Spool) -> None:
        try:
            intent, token = self._open.pop(self._rng.randrange(len(self._open)) if self._open else 0)
        except IndexError:
            return
        self._write(spool, an_outcome(intent), token)
        self.book.outcomes_without += isinstance(token, LostIntent)

    def _write(self, spool: Spool, facts, follows=None):
        book, record = self.book, (type(facts).__struct_config__.tag, facts.id)
        book.in_flight.add(record)
        try:
            token = spool.write(facts, follows=follows)
        except AuditUnavailable:
            book.refused.add(record)
            token = None
        else:
            book.accepted.add(record)
        book.in_flight.discard(record)
        return token

    def _threads(self, spool: Spool) -> None:
        def run() -> None:
            try:
                for _ in range(4):
                    self._begin(spool)
                    self._end(spool)
            except Crash:
                pass

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        self.book.threads = True
        threads = [threading.Thread(target=run) for _ in range(THREADS)]
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        if self._disk.dead:
            raise Crash

    def _as_a_child(self, spool: Spool) -> None:
        """The process is killed, and its forked child goes on with the same object."""
        self._note_unplaced(spool)
        self._open.clear()
        spool._begin_process()
        self.book.processes.add(spool.process)

    def _kill(self, spool: Spool) -> None:
        """What the kernel does: descriptors are closed, memory is gone, pages stay."""
        self._note_unplaced(spool)
        self._open.clear()
        for segment in list(spool._segments):
            segment.close()
        spool._begin_process()
        spool._closed = True

    def _note_unplaced(self, spool: Spool) -> None:
        if spool._uncounted.total:
            self.book.unplaced += spool._uncounted.total
            self.book.unplaced_beside_a_page |= bool(spool._newest or spool._counting)

    def _cut_power(self) -> None:
        """The end of a segment, or a byte of a whole frame, is not as it was written."""
        rng, disk = self._rng, self._disk
        files = {entry.inode(): entry.path for entry in os.scandir(self._home.spool_dir) if entry.inode() in disk.whole}
        if not files:
            return
        inode = rng.choice(sorted(files))
        frames = disk.whole[inode]
        self.book.damaged = True
        with Path(files[inode]).open("r+b") as file:
            if rng.random() < 0.5:
                at = rng.randrange(HEADER_BYTES, frames[-1][1] + 1)
                file.truncate(at)
                self.book.internal_gone += at < frames[0][1]
            else:
                which = rng.randrange(len(frames))
                at = rng.randrange(*frames[which])
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ rng.randrange(1, 256)]))
                self.book.internal_gone += which == 0


class StrictCalls:
    """Calls through a real client in mode `strict`; the transport is a server that looks at the disk when a request comes."""

    OF_ONE_HOME = 1_000

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self.sent = self.refused = self.odd = self.injected = 0
        self.unsafe: list[str] = []
        self._written: tuple[Segment, int] | None = None

    def run(self, count: int) -> None:
        logging.getLogger("openrouter_audit").setLevel(logging.CRITICAL)
        try:
            for start in range(0, count, self.OF_ONE_HOME):
                self._run_on(self._folder / str(start), min(self.OF_ONE_HOME, count - start))
        finally:
            logging.getLogger("openrouter_audit").setLevel(logging.NOTSET)

    def _run_on(self, home: Path, count: int) -> None:
        rng = self._rng
        audit = AuditLog.open(home, mode="strict", sequencer=False, enrich=False)
        disk = self._disk = FaultyDisk(home)
        disk.begin(rng)
        spool = audit._spool
        spool._rotate_bytes, spool._retry_s = 20_000, None
        audit.write = self._note(spool.write)
        client = audit.httpx2_client(transport=httpx2.MockTransport(self._answer))
        with disk.mounted():
            for number in range(count):
                if number % 25 == 0:
                    disk.fails = rng.choice((0.0, 0.01, 0.1, 0.5))
                    disk.room = rng.choice((None, None, rng.randrange(30_000)))
                self._call(client)
            disk.fails, disk.room = 0.0, None
            client.close()
            audit.close()
        self.injected += disk.injected
        shutil.rmtree(home)

    def _call(self, client) -> None:
        before = self.sent
        self._written = None
        try:
            client.post("https://openrouter.ai/api/v1/chat/completions", json=_ASKED).read()
        except AuditUnavailable:
            self.refused += 1
            self.odd += self.sent != before
        else:
            self.odd += self.sent != before + 1

    def _note(self, write):
        def noted(facts, private=None, *, follows=None):
            token = write(facts, private, follows=follows)
            if isinstance(facts, CallIntent):
                self._written = token, os.fstat(token._descriptor).st_size
            return token

        return noted

    def _answer(self, _request):
        """What a power cut at this moment would leave of the intent."""
        self.sent += 1
        if self._written is None:
            self.unsafe.append(f"call {self.sent}: no intent was written")
        else:
            segment, end = self._written
            inode = os.fstat(segment._descriptor).st_ino
            if self._disk.synced.get(inode, 0) < end:
                self.unsafe.append(f"call {self.sent}: the frame is not synced")
            if inode not in self._disk.durable_names:
                self.unsafe.append(f"call {self.sent}: the name of the segment is not")
        return httpx2.Response(200, json=_ANSWER)


_ASKED = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}
_ANSWER = {
    "id": "gen-1",
    "model": "openai/gpt-4.1-mini-2025-04-14",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "cost": 0.0000052},
}

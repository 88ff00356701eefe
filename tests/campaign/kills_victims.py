"""
The processes that are killed: writers of every kind, sequencers, a publisher, makers of homes.

Each is a function that never returns. It runs in a fork of the harness, says through a pipe what was acknowledged, after
the product's own call returned, and marks in shared memory what it is doing. The times that the product takes for granted
(a look every half second, a checkpoint kept every hour, a question one second after a call) are made short here, and its
batches small, so that a process that lives for a second does everything it ever does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from tests.campaign import kills_marks as doing
from tests.campaign.kills_checks import FolderReader
from tests.campaign.kills_marks import Marks
from tests.journal.homes import KEY, an_intent, an_outcome, new_spool

from openrouter_audit.audit_log import AuditLog, collected
from openrouter_audit.cli.publish import publish_home
from openrouter_audit.core.entries import CallIntent, CallOutcome, Private
from openrouter_audit.enrichment import enricher as _enricher  # noqa: F401 - loaded here once, not in every fork
from openrouter_audit.enrichment import schedule
from openrouter_audit.enrichment.generations import GenerationClient
from openrouter_audit.enrichment.settling import Settlement
from openrouter_audit.errors import FenceLost, JournalUnavailable
from openrouter_audit.journal import batch, followers, sequencer, sqlite
from openrouter_audit.journal.drain import SpoolReader
from openrouter_audit.journal.followers import FollowerWorker, SequencerWorker
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.keys import LogKeys
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.spool import Segment, Spool
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.reports.projection import Projection
from openrouter_audit.reports.projector import Projector

PAUSE_S: Final = 0.03
"""Of a writer between two records, at most: the sequencer has a part of two cores and must keep up."""
USERS: Final = 7
KIDS: Final = 2
_KID_CALLS: Final = 40
_LOCKED: Final = "is locked"
"""What SQLite says after ten seconds behind a process that was stopped in a transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and as whom a victim lives."""

    home: Home
    published: Path
    url: str
    """Of the emulated OpenRouter."""
    marks: Marks
    row: int
    """Of this process in the marks; those of its forked children follow."""
    seed: int
    pipe: int

    def say(self, kind: str, text: str) -> None:
        """One line, whole: shorter than PIPE_BUF, so that lines of threads and forks do not mix."""
        os.write(self.pipe, f"{kind}{text}"[:500].replace("\n", " ").encode() + b"\n")


def begin(place: Place) -> random.Random:
    """Mark operations, shorten times, and hand on what the product complains about."""
    marks = place.marks
    marks.begin(place.row)
    for owner, name, operation in (
        (Segment, "append", doing.APPEND),
        (Spool, "_open_segment", doing.ROTATION),
        (Home, "ensure", doing.HOME),
        (Sequencer, "__init__", doing.OPENING),
        (Sequencer, "_drain_once", doing.DRAIN),
        (Vault, "commit", doing.VAULT),
        (SqliteJournal, "commit", doing.COMMIT),
        (LogKeys, "sign", doing.CHECKPOINT),
        (Home, "write_head", doing.CHECKPOINT),
        (SpoolReader, "_remove", doing.DELETION),
        (Projection, "follow", doing.PROJECTION),
        (GenerationClient, "ask", doing.ASKING),
        (Settlement, "settle", doing.SETTLE),
    ):
        marks.wrap(owner, name, operation)
    _mark_lease(marks)
    followers.PACE_S = 0.02
    schedule.FIRST_ASK_US = 20_000
    sequencer.CHECKPOINT_EVERY_US = 50_000
    batch.FULL_ENTRIES = 300
    Projector.__init__.__kwdefaults__["batch_entries"] = 100
    sqlite._PRAGMAS = tuple(
        (name, "100", 100) if name == "wal_autocheckpoint" else (name, value, seen)
        for name, value, seen in sqlite._PRAGMAS
    )
    logging.getLogger("openrouter_audit").addHandler(_Complaints(place))
    threading.excepthook = lambda fault: place.say("!", f"thread ended: {fault.exc_type.__name__}: {fault.exc_value}")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return random.Random(place.seed)


def _end_with(harness: int) -> None:
    """A harness that was itself ended leaves nobody behind."""
    while os.getppid() == harness:
        time.sleep(1)
    os._exit(4)


class _Complaints(logging.Handler):
    def __init__(self, place: Place) -> None:
        super().__init__(logging.WARNING)
        self._place = place

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if FenceLost.__name__ not in message and _LOCKED not in message:
            self._place.say("!", message)


@contextlib.contextmanager
def _beside_others() -> Iterator[None]:
    """What one of several sequencers may meet; anything else ends the process, which the harness counts."""
    try:
        yield
    except FenceLost:
        pass
    except JournalUnavailable as error:
        if _LOCKED not in str(error):
            raise


def _mark_lease(marks: Marks) -> None:
    original = Lease.acquire

    def acquire(lease: Lease) -> bool:
        held = original(lease)
        marks.state(doing.HOLDS_LEASE, held)
        marks.state(doing.WAITS_FOR_LEASE, not held)
        return held

    Lease.acquire = acquire


# Records that say by themselves whether they are whole -----------------------------------------------------------------


def a_marked_intent() -> CallIntent:
    """Its numbers follow from its id, so that the check can tell a record that is not the one written."""
    intent = an_intent()
    return an_intent(id=intent.id, group=intent.group, request_bytes=int(intent.id[:8], 16))


def its_outcome(intent: CallIntent, **changes: Any) -> CallOutcome:
    return an_outcome(intent, **{"response_bytes": int(intent.id[8:16], 16), **changes})


def its_user(call_id: str) -> str:
    return f"user{int(call_id[16:24], 16) % USERS}"


class Calls:
    """Writes calls and says which of their records were acknowledged."""

    def __init__(self, place: Place, spool: Spool) -> None:
        self._place, self._spool = place, spool
        self._is_strict = spool.mode == "strict"

    def begin(self) -> tuple[CallIntent, object]:
        intent = a_marked_intent()
        token = self._write("i", intent, Private(user=its_user(intent.id), commitment_key=os.urandom(32)))
        return intent, token

    def end(self, intent: CallIntent, token: object) -> None:
        self._write("o", its_outcome(intent), follows=token)

    def _write(self, kind: str, facts: Any, *arguments: Any, **options: Any) -> object:
        if not self._is_strict:
            token = self._spool.write(facts, *arguments, **options)
        else:
            with self._place.marks.during(doing.STRICT_APPEND):
                token = self._spool.write(facts, *arguments, **options)
                self._spool.sync(token)
            kind = kind.upper()
        self._place.say(kind, facts.id)
        return token


def _spool_of(place: Place, rng: random.Random, *, mode: str) -> Spool:
    return new_spool(place.home, mode=mode, rotate_bytes=rng.choice((3_000, 20_000, 10**6)))


def _write_for_ever(calls: Calls, rng: random.Random) -> None:
    while True:
        intent, token = calls.begin()
        time.sleep(PAUSE_S * rng.random())
        if rng.random() > 0.05:  # one in twenty never ends
            calls.end(intent, token)
        del token


# Writers ---------------------------------------------------------------------------------------------------------------


def threads(place: Place, *, mode: str = "buffer") -> None:
    rng = begin(place)
    calls = Calls(place, _spool_of(place, rng, mode=mode))
    for _ in range(2):
        threading.Thread(target=_write_for_ever, args=(calls, random.Random(rng.random()))).start()
    _write_for_ever(calls, rng)


def tasks(place: Place) -> None:
    rng = begin(place)
    calls = Calls(place, _spool_of(place, rng, mode="buffer"))

    async def write(rng: random.Random) -> None:
        while True:
            intent, token = calls.begin()
            await asyncio.sleep(2 * PAUSE_S * rng.random())
            if rng.random() > 0.05:
                calls.end(intent, token)

    async def all_of_them() -> None:
        await asyncio.gather(*(write(random.Random(rng.random())) for _ in range(5)))

    asyncio.run(all_of_them())


def forks(place: Place) -> None:
    """A process that forks while another thread of it writes, and while calls of its own are open."""
    rng = begin(place)
    calls = Calls(place, _spool_of(place, rng, mode="buffer"))
    threading.Thread(target=_write_for_ever, args=(calls, random.Random(rng.random()))).start()
    kids: dict[int, int] = {}  # row -> pid
    while True:
        intent, token = calls.begin()
        for number in range(1, KIDS + 1):
            if number not in kids:
                seed = rng.random()
                pid = os.fork()
                if pid == 0:
                    _run(lambda: _kid(place, number, calls, intent, token, seed), place)  # noqa: B023 - used at once
                kids[number] = pid
                place.say("+", f"{number} {pid}")
        place.marks.state(doing.FORKING, bool(kids))
        time.sleep(PAUSE_S * rng.random())
        calls.end(intent, token)
        for number, pid in list(kids.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del kids[number]
                place.say("-", f"{number} {pid}")


def _kid(place: Place, number: int, calls: Calls, intent: CallIntent, token: object, seed: float) -> None:
    """Mute for the call its parent began; otherwise a writer like others, until it has had enough."""
    place.marks.begin(place.row + number)
    place.marks.state(doing.FORKED, True)
    rng = random.Random(seed)
    calls._spool.write(its_outcome(intent, status="error"), follows=token)  # must not appear: the parent writes it
    for _ in range(rng.randrange(1, _KID_CALLS)):
        own, its_token = calls.begin()
        time.sleep(PAUSE_S * rng.random())
        calls.end(own, its_token)
    os._exit(0)


def application(place: Place) -> None:
    """Real calls over HTTP, captured, sequenced, reported and settled by the threads of one process."""
    rng = begin(place)
    settled = Settlement.settle

    @functools.wraps(settled)
    def settle(settlement: Settlement, call: Any, found: Any, **options: Any) -> bool:
        differs = settled(settlement, call, found, **options)
        place.say("c", call.call_id)
        return differs

    Settlement.settle = settle
    host = place.url.removeprefix("http://").partition("/")[0]
    audit = AuditLog.open(place.home.path, hosts=(host,))
    client = audit.httpx2_client(trust_env=False)

    def call_for_ever(rng: random.Random) -> None:
        finished: list[Any] = []
        collected.set(finished)
        body = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hi"}]}
        while True:
            answer = client.post(place.url + "/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
            assert 200 == answer.status_code
            for call in finished:
                place.say("i", call.intent.id)
                place.say("o", call.intent.id)
            finished.clear()
            time.sleep(6 * PAUSE_S * rng.random())

    threading.Thread(target=call_for_ever, args=(random.Random(rng.random()),)).start()
    call_for_ever(rng)


# Those who read the spool and the journal ------------------------------------------------------------------------------


def leased_sequencer(place: Place) -> None:
    """As a recording process does it: one thread sequences while it has the lease, one projects."""
    begin(place)
    follower = FollowerWorker("reports", lambda: Projection.open(place.home.journal_path, place.home.reports_path))
    worker = SequencerWorker(place.home, lambda _: follower.wake())
    follower.start()
    worker.start()
    time.sleep(3600)


def unleased_sequencer(place: Place) -> None:
    """Asks for no lease: whatever the other one does, the fence alone keeps them apart. It projects as well."""
    rng = begin(place)
    projection = Projection.open(place.home.journal_path, place.home.reports_path)
    while True:
        made = Sequencer(place.home)
        for _ in range(rng.randrange(1, 50)):
            with _beside_others():
                made.drain()
                projection.follow()
            time.sleep(0.1 * rng.random())
        made.close()


def publisher(place: Place) -> None:
    rng = begin(place)
    while True:
        with place.marks.during(doing.PUBLISH), _beside_others():
            publish_home(place.home, place.published)
        time.sleep(0.15 * rng.random())


def home_maker(place: Place) -> None:
    """Makes a home, and before it the one that its predecessor may have left half made."""
    rng = begin(place)
    folder = place.published.parent / "homes"
    for number in itertools.count():
        home = Home(folder / "half")
        home.ensure()
        with place.marks.during(doing.HOME):
            spool = new_spool(home)
            intent = a_marked_intent()
            spool.write(its_outcome(intent), follows=spool.write(intent))
            spool.end(closing=True)
        made = Sequencer(home)
        entries = made.drain()
        made.close()
        if entries < 4:
            place.say("!", f"a home that was half made took {entries} entries")
        home.path.rename(folder / f"{place.seed}-{number}")
        shutil.rmtree(folder / f"{place.seed}-{number}")
        time.sleep(0.2 * rng.random())


# Those who are not killed ----------------------------------------------------------------------------------------------


def folder_reader(place: Place) -> None:
    """A stranger who looks at the published folder all the time, and finds at every instant what its checkpoint says."""
    reader = FolderReader(place.published, place.home.policy_path)
    while True:
        try:
            size = reader.read()
        except Exception as error:
            place.say("!", f"published folder: {type(error).__name__}: {error}")
        else:
            if size is not None:
                place.say("v", str(size))
        time.sleep(0.05)


def emulator(place: Place) -> None:
    from openrouter_audit.testing import FakeOpenRouter

    port = int(place.url.rpartition(":")[2].partition("/")[0])
    FakeOpenRouter(seed=place.seed, port=port).start()
    _end_with(os.getppid())


def wait_for(url: str) -> None:
    """Until the emulator listens."""
    for _ in range(1000):
        with contextlib.suppress(httpx2.ConnectError):
            httpx2.get(url + "/models", trust_env=False)
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens at {url}")


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api/v1"


def spawn(run: Callable[[Place], None], place: Place) -> int:
    pid = os.fork()
    if pid == 0:
        _run(lambda: run(place), place)
    return pid


def _run(run: Callable[[], None], place: Place) -> None:
    """Never returns. A victim that ends by itself says why."""
    try:
        run()
    except BaseException as error:
        place.say("!", f"ended by itself: {type(error).__name__}: {error}")
        raise
    finally:
        os._exit(3)


def write_settings(home: Home) -> None:
    home.config_path.write_text(f"[enrich]\nmax_per_second = {json.dumps(500)}\n")

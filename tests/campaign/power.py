"""
Power cuts: a small life of a home is recorded, the power is cut at any instant of it, and what is left must be a good log.

1. `live` is that life: a home is made, processes come and go and write calls, segments rotate, everything is drained,
   committed, checkpointed, projected, published and removed, and other threads write while the sequencer is at work. All of
   it is chosen by a seed, recorded by `power_recording.py`, and ends with a last drain: so for every frame ever written it
   is known which entry it is.
2. `power_images.py` makes a folder as a cut at an instant may leave it.
3. `judge` opens that folder as the next process would, and counts what is not as promised.

What the product promises, and so what is judged:

- `strict`: whatever was acknowledged is an entry. The segment was synced and its name as well, before the caller went on.
- `buffer`: nothing syncs a segment. What bounds a loss is the sequencer, which reads the spool out of the page cache every
  500 ms and commits it with a sync. So: the entries of the last commit that returned are there, byte for byte. What was
  acknowledged after it may be gone, in any part, in both senses: a disk may have kept the newest and lost what came before.
  On a home that nobody drains there is no bound but the kernel's own writing back.
- A loss is said where it can be known. The counter of a writer that reached the disk tells how many frames there were, and
  so does a frame that stands behind a hole. Each such number that is no entry is counted in a `log.loss`, or stands as
  `log.unreadable`. No more is said than was lost.
- Never corrupt, doubled or mistaken for tampering: the log is proved anew, verification says at most *incomplete*, before and
  after; no call keeps waiting for an outcome; nothing that refers to the vault refers to nothing; the published folder
  proves what its checkpoint says; `head` never locks an honest log.
- A second drain changes nothing, and the log goes on: a new process records a call.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from tests.campaign.power_images import Disk
from tests.campaign.power_recording import Mark, Recording, Write
from tests.journal.homes import an_intent, an_outcome, check_log, new_spool

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.entries import Private
from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.core.notes import parse_note, parse_tree_head
from openrouter_audit.core.tiles import TilePath, decode_bundle, encode_path
from openrouter_audit.errors import HomeError
from openrouter_audit.journal import sqlite as sqlite_module
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.publisher import publish
from openrouter_audit.journal.segments import SegmentHeader
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import Commit, SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.journal.writer_state import read_counts
from openrouter_audit.reports.projection import Projection

HOME = "srv/audit"
PUBLISHED = "www/log"
_FRAME_SEQ = struct.Struct(">8sIQ")


# The recorded life ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Truth:
    """What is known of a life from outside, wherever it is cut."""

    frames: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    """Kind and id of the record of each frame, by segment and number."""
    users: dict[str, str] = field(default_factory=dict)
    """Who made a call, by its id."""
    texts: list[str] = field(default_factory=list)
    """The log as it became in the end."""
    processes: dict[str, str] = field(default_factory=dict)
    """Which process wrote a segment."""

    def copy(self) -> Truth:
        return Truth(dict(self.frames), dict(self.users), list(self.texts), dict(self.processes))


@dataclass(slots=True)
class Told:
    """What outside had been told by an instant."""

    made: bool = False
    committed: int = 0
    strict: set[tuple[str, str]] = field(default_factory=set)
    published: int = -1
    written: Counter[str] = field(default_factory=Counter)
    """Frames written to each segment."""

    def copy(self) -> Told:
        return Told(self.made, self.committed, set(self.strict), self.published, Counter(self.written))


class Life:
    """One recorded life of a home below `root`; `rng` decides everything."""

    def __init__(
        self, root: Path, rng: random.Random, *, strict: bool, calls: int = 24, before: tuple[Told, Truth] | None = None
    ) -> None:
        self.root, self.rng, self.strict = root, rng, strict
        self.home = Home(root / HOME)
        self.recording = Recording(root)
        self._told, self.truth = (Told(), Truth()) if before is None else (before[0].copy(), before[1].copy())
        self._left = calls
        self._spools: list = []
        self._open: list = []
        self._sequencer: Sequencer | None = None

    def live(self) -> None:
        """Record it, ending with everything drained; then hold the tape against the folder."""
        commit = SqliteJournal.commit

        def marked(journal: SqliteJournal, batch: Commit) -> None:
            commit(journal, batch)
            self.recording.mark("committed", batch.expected_size + len(batch.entries))

        checkpoint_pages = self.rng.choice((4, 12, 40, 4000))
        pragmas = (*sqlite_module._PRAGMAS[:-1], ("wal_autocheckpoint", str(checkpoint_pages), checkpoint_pages))
        assert "wal_autocheckpoint" == sqlite_module._PRAGMAS[-1][0]
        with (
            patch.object(sqlite_module, "_PRAGMAS", pragmas),
            patch.object(SqliteJournal, "commit", marked),
            patch.object(os, "urandom", random.Random(self.rng.random()).randbytes),  # the same names for the same seed
            self.recording.on(),
        ):
            try:
                self._live()
            finally:
                self._spools.clear()
                self._open.clear()
                self._close_sequencer()
        disk = Disk(self.recording)
        disk.move_to(len(self.recording.events))
        self.recording.check_complete({name: data for name, data in disk.everything().items() if name[-1] != "/"})
        self._learn()

    def _live(self) -> None:
        self.home.ensure()
        self.recording.mark("made")
        self.recording.meanwhile = self._somebody_writes
        while self._left > 0:
            self.rng.choices(
                (
                    self._call,
                    self._drain,
                    self._new_process,
                    self._end_process,
                    self._reopen,
                    self._project,
                    self._publish,
                ),
                (24, 5, 2, 2, 1, 1, 1),
            )[0]()
        self._publish()
        self.recording.meanwhile = None
        while self._spools:
            self._end_process()
        self._drain()
        self._drain()
        self._project()

    def _new_process(self) -> None:
        mode = "strict" if self.strict else "buffer"
        self._spools.append(new_spool(self.home, mode=mode, rotate_bytes=self.rng.choice((1500, 4000, 10**6))))

    def _end_process(self) -> None:
        """It stops on purpose, or is killed with calls under way."""
        if self._spools:
            spool = self._spools.pop(self.rng.randrange(len(self._spools)))
            if self.rng.random() < 0.5:
                spool.end(closing=True)
            self._open = [call for call in self._open if call[0] is not spool]
            del spool
            gc.collect(0)

    def _call(self) -> None:
        if not self._spools or self.rng.random() < 0.05:
            self._new_process()
        spool = self.rng.choice(self._spools)
        if self._open and self.rng.random() < 0.5:
            spool, token, intent = self._open.pop(self.rng.randrange(len(self._open)))
            token = spool.write(an_outcome(intent), follows=token)
            self._acknowledge(spool, token, "call.outcome", intent.id)
            return
        self._left -= 1
        intent = an_intent()
        user = self.rng.choice((None, "ann", "bob", "chris"))
        private = None if user is None else Private(user=user, session="s" * self.rng.choice((5, 700)))
        token = spool.write(intent, private)
        if user is not None:
            self.truth.users[intent.id] = user
        self._acknowledge(spool, token, "call.intent", intent.id)
        self._open.append((spool, token, intent))

    def _acknowledge(self, spool, token, kind: str, call: str) -> None:
        if self.strict:
            spool.sync(token)
            self.recording.mark("strict", (kind, call))

    def _somebody_writes(self) -> None:
        if self._left > 0 and self.rng.random() < 0.02:
            self._call()

    def _drain(self) -> None:
        if self._sequencer is None:
            self._sequencer = Sequencer(self.home)
        self._sequencer.drain()

    def _reopen(self) -> None:
        """The last connection closes, so SQLite moves its write-ahead logs into the databases and removes them."""
        self._close_sequencer()
        self._drain()

    def _close_sequencer(self) -> None:
        if self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None

    def _project(self) -> None:
        projection = Projection.open(self.home.journal_path, self.home.reports_path)
        try:
            projection.follow()
        finally:
            projection.close()

    def _publish(self) -> None:
        self.recording.mark("published", publish_home(self.home, self.root / PUBLISHED))

    def _learn(self) -> None:
        entries = check_log(self.home)
        with SqliteJournal.open(self.home.journal_path, read_only=True) as journal:
            self.truth.texts = [text for _, text in journal.entries()]
            for name, position in journal.positions().items():
                self.truth.processes.setdefault(name, position.process)
        for entry in entries:
            place = entry["writer"]["segment"], entry["writer"]["seq"]
            if entry["kind"] != "log.loss":  # the sequencer's own: no frame, though random ids repeat in these lives
                self.truth.frames.setdefault(place, (entry["kind"], entry["id"]))

    def moments(self) -> Iterator[tuple[int, Told]]:
        """Each instant at which something had just happened, and what outside had been told by then."""
        told = self._told
        segments = self._segments()
        yield 0, told.copy()
        for at, event in enumerate(self.recording.events):
            match event:
                case Mark("made", _):
                    told.made = True
                case Mark("committed", size):
                    told.committed = size
                case Mark("strict", record):
                    told.strict.add(record)
                case Mark("published", size):
                    told.published = size
                case Write(number, offset, data) if number in segments and offset:
                    told.written[segments[number]] = _FRAME_SEQ.unpack_from(data)[2] + 1
            yield at + 1, told.copy()

    def _segments(self) -> dict[int, str]:
        found = {}
        for event in self.recording.events:
            for name, number in getattr(event, "names", ()):
                if number is not None and name.endswith(".seg"):
                    found[number] = name.removesuffix(".seg")
        return found


def publish_home(home: Home, directory: Path) -> int:
    text = home.policy_path.read_bytes()
    with JournalEvidence.open(home.journal_path) as evidence:
        return publish(evidence, directory, policy=decode_policy(text), policy_text=text).tree_size


# The judge ------------------------------------------------------------------------------------------------------


PROMISES = (
    "locked out",
    "corrupt",
    "taken for tampered",
    "doubled",
    "committed lost",
    "strict acknowledged lost",
    "known loss unsaid",
    "loss said that was none",
    "call without an end",
    "vault row missing",
    "second drain not idle",
    "published unproven",
    "reports wrong",
    "log does not go on",
    "files left behind",
)
SECOND_LIVES_PER = 25
"""One in so many cuts is not judged at once: the home lives on, and is cut again; half of all images are such."""
REPORTS_EVERY = 5
"""Projecting is checked on each fifth image that holds reports: it takes longer than all the rest."""


@dataclass(slots=True)
class Tally:
    """What was found over many images."""

    images: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Records that had been written and are gone, allowed in buffer mode."""
    said: int = 0
    """Of these, said by an entry."""
    images_with_loss: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, promise: str, detail: str) -> None:
        assert promise in PROMISES
        self.broken[promise] += 1
        self.examples.setdefault(promise, detail)


def write_image(image: dict[str, bytes], root: Path) -> None:
    for name, data in image.items():
        if name[-1] == "/":
            os.makedirs(root / name, mode=0o700, exist_ok=True)
        else:
            descriptor = os.open(root / name, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(descriptor, data)
            os.close(descriptor)


def judge(root: Path, told: Told, truth: Truth, tally: Tally, name: str) -> None:
    """Open a folder as it was left, and count what is not as promised."""
    tally.images += 1
    try:
        _judge(root, told, truth, tally, name)
    except Exception as error:  # a reader that stumbles has found what it cannot read
        tally.note("corrupt", f"{name}: {error!r}")


def _judge(root: Path, told: Told, truth: Truth, tally: Tally, name: str) -> None:
    home = Home(root / HOME)

    def note(promise: str, detail: object) -> None:
        tally.note(promise, f"{name}: {detail}")

    if told.made and not home.exists:
        note("committed lost", "the home is gone")
    if told.made and home.exists:
        report = verify_home(home, check_reports=False)
        if report.verdict not in {"proven", "incomplete"}:
            note("taken for tampered", f"before recovery: {report.verdict} {report.reason} {report.findings[:1]}")
    counted = {segment: _counted(home, segment) for segment in told.written}
    try:
        home.ensure()
        sequencer = Sequencer(home)
        try:
            sequencer.drain()
        finally:
            sequencer.close()
    except HomeError as error:
        note("locked out", error)
        return
    except Exception as error:
        note("corrupt", repr(error))
        return
    entries = _proved(home, note)
    if entries is None:
        return
    texts = _texts(home)
    if texts[: told.committed] != truth.texts[: told.committed]:
        note("committed lost", f"{told.committed} entries were committed, {len(texts)} are there")
    _judge_records(entries, counted, told, truth, tally, note)
    _judge_vault(home, entries, truth, note)
    # A counter without a count may be that of a segment that is being made. A file without a header and a counter says
    # nothing but that it is there: verification calls it undrained.
    behind = [path for path in home.spool_dir.glob("*.seg") if SegmentHeader.decode(path.read_bytes()) is not None]
    behind += [path for path in home.state_dir.iterdir() if _counted(home, path.name)]
    if behind:
        note("files left behind", behind)
    if told.published >= 0:
        _judge_published(root, home, texts, told, note)
    _go_on(home, texts, note)
    if home.reports_path.exists() and tally.images % REPORTS_EVERY == 0:
        _judge_reports(home, note)


def _proved(home: Home, note) -> list[dict] | None:
    try:
        return check_log(home)
    except AssertionError as error:
        texts = [json.loads(text) for text in _texts(home)]
        twice = [one for one, count in Counter((e["kind"], e["id"]) for e in texts).items() if count > 1]
        note("doubled" if twice else "corrupt", twice or str(error)[:200])
        return None


def _texts(home: Home) -> list[str]:
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        return [text for _, text in journal.entries()]


def _judge_records(entries: list[dict], counted: dict[str, int], told: Told, truth: Truth, tally: Tally, note) -> None:
    present = {(entry["kind"], entry["id"]) for entry in entries}
    missing = told.strict - present
    if missing:
        note("strict acknowledged lost", sorted(missing))
    ended = {entry["id"] for entry in entries if entry["kind"] == "call.outcome"}
    waiting = {entry["id"] for entry in entries if entry["kind"] == "call.intent"} - ended
    if waiting:
        note("call without an end", sorted(waiting))
    found, unreadable, said = Counter(), Counter(), Counter()
    highest: dict[str, int] = {}
    for entry in entries:
        segment, seq = entry["writer"]["segment"], entry["writer"]["seq"]
        swept = entry.get("status") == "unknown"  # in the place of the outcome that was lost, perhaps under its number
        if not swept and truth.frames.get((segment, seq)) == (entry["kind"], entry["id"]):
            found[segment] += 1
            highest[segment] = seq + 1
        elif entry["kind"] == "log.unreadable":
            unreadable[segment] += 1
            highest[segment] = seq + 1
        elif entry["kind"] == "log.loss":
            said[segment] += entry.get("count", 0)
    over: Counter[str] = Counter()
    for segment, written in told.written.items():
        known = min(written, max(counted[segment], highest.get(segment, 0)))
        known_lost = known - found[segment] - unreadable[segment]
        lost = written - found[segment] - unreadable[segment]
        tally.lost += lost + unreadable[segment]
        tally.said += min(lost, said[segment]) + unreadable[segment]
        if said[segment] < known_lost:
            note("known loss unsaid", f"segment {segment}: {known_lost} known, {said[segment]} said")
        over[truth.processes[segment]] += said[segment] - lost
    for process, count in over.items():  # a lost intent may be said where its outcome stands, in a later segment
        if count > 0:
            note("loss said that was none", f"process {process}: {count} too many")
    tally.images_with_loss += bool(said or unreadable)


def _counted(home: Home, segment: str) -> int:
    """How many frames the writer's counter, as the cut left it, says there were."""
    counts = read_counts(home.state_dir / segment)
    return 0 if counts is None else counts.acknowledged


def _judge_vault(home: Home, entries: list[dict], truth: Truth, note) -> None:
    intents = [entry for entry in entries if entry["kind"] == "call.intent"]
    with Vault.open(home.vault_path, read_only=True) as vault:
        calls = vault.calls([entry["id"] for entry in intents])
        users = vault.users([entry["subject"] for entry in intents if entry.get("subject")])
    for entry in intents:
        user = truth.users.get(entry["id"])
        if user is not None and (entry["id"] not in calls or users.get(entry["subject"]) != user):
            note("vault row missing", entry["id"])


def _judge_published(root: Path, home: Home, texts: list[str], told: Told, note) -> None:
    folder = root / PUBLISHED
    path = folder / "checkpoint"
    if path.exists():
        head = parse_tree_head(parse_note(path.read_bytes()).text)
        frontier = Frontier()
        try:
            while frontier.size < head.tree_size:
                width = min(256, head.tree_size - frontier.size)
                bundle = folder / encode_path(TilePath(level=None, index=frontier.size // 256, width=width))
                frontier.extend([leaf_hash(entry) for entry in decode_bundle(bundle.read_bytes(), count=width)])
        except (OSError, ValueError) as error:
            note("published unproven", repr(error))
        if frontier.root() != head.root_hash or head.tree_size < told.published:
            note("published unproven", f"size {head.tree_size}, {told.published} were published")
    elif told.published >= 0:
        note("published unproven", "the checkpoint is gone")
    try:
        if publish_home(home, folder) != len(texts):
            note("published unproven", "not brought up to the log")
    except Exception as error:
        note("published unproven", repr(error))


def _go_on(home: Home, texts: list[str], note) -> None:
    """A new process on the home finds nothing left to drain, records a call, and everything is proved once more."""
    try:
        with contextlib.closing(Sequencer(home)) as sequencer:
            if sequencer.drain() != len(texts) or _texts(home) != texts:
                note("second drain not idle", f"{len(texts)} entries before")
            spool = new_spool(home)
            intent = an_intent()
            spool.write(an_outcome(intent), follows=spool.write(intent))
            spool.end(closing=True)
            del spool
            size = sequencer.drain()
    except Exception as error:
        note("log does not go on", repr(error))
        return
    if [intent.id in text for text in _texts(home)[len(texts) : size]] != [False, True, True, False]:
        note("log does not go on", "the new call is not its end")
    report = verify_home(home, check_reports=False)
    if report.verdict not in {"proven", "incomplete"}:
        note("taken for tampered", f"after recovery: {report.verdict} {report.reason} {report.findings[:1]}")


def _judge_reports(home: Home, note) -> None:
    try:
        with contextlib.closing(Projection.open(home.journal_path, home.reports_path)) as projection:
            projection.follow()
    except Exception as error:
        note("reports wrong", repr(error))
        return
    wrong = [finding for finding in verify_home(home).findings if finding.kind == "report_mismatch"]
    if wrong:
        note("reports wrong", wrong[0])


# The campaign ---------------------------------------------------------------------------------------------------


def campaign(folder: Path, *, seed: int, images: int, images_per_life: int = 100) -> Tally:
    """Judge `images` different images of as many lives as that needs."""
    tally, number = Tally(), 0
    while tally.images < images:
        rng = random.Random(f"{seed}/{number}")
        wanted = min(images_per_life, images - tally.images)
        cut_life(folder, rng, tally, wanted=wanted, strict=number % 2 == 1, name=f"seed {seed} life {number}")
        number += 1
    return tally


def cut_life(folder: Path, rng: random.Random, tally: Tally, *, wanted: int, strict: bool, name: str) -> None:
    """Cut one life at many instants; some of what is left lives on, and is cut again while it recovers."""
    root = folder / "life"
    root.mkdir()
    life = Life(root, rng, strict=strict)
    life.live()
    twice = wanted // SECOND_LIVES_PER
    cuts = list(_cuts(life, rng, wanted - wanted // 2))
    again = set(rng.sample(range(len(cuts)), min(twice, len(cuts))))
    for number, (moment, told, image) in enumerate(cuts):
        where = f"{name} moment {moment} {'strict' if strict else 'buffer'}"
        left = folder / "left"
        left.mkdir()
        write_image(image, left)
        if number in again:
            second = Life(left, rng, strict=strict, calls=4, before=(told, life.truth))
            try:
                second.live()
            except Exception as error:
                tally.note("locked out" if isinstance(error, HomeError) else "corrupt", f"{where}: {error!r}")
                shutil.rmtree(left)
                continue
            for later, told_later, left_later in _cuts(second, rng, wanted // 2 // twice):
                last = folder / "last"
                last.mkdir()
                write_image(left_later, last)
                judge(last, told_later, second.truth, tally, f"{where} then {later}")
                shutil.rmtree(last)
        else:
            judge(left, told, life.truth, tally, where)
        shutil.rmtree(left)
    shutil.rmtree(root)


def _cuts(life: Life, rng: random.Random, wanted: int) -> Iterator[tuple[int, Told, dict[str, bytes]]]:
    """Instants and what they leave, no two alike."""
    moments = list(life.moments())
    disk, seen = Disk(life.recording), set()
    for moment, told in sorted(rng.choices(moments, k=wanted), key=lambda one: one[0]):
        disk.move_to(moment)
        image = disk.image(rng)
        key = hash(tuple(sorted(image.items())))
        if key not in seen:
            seen.add(key)
            yield moment, told, image

"""
Every byte of a log, changed in three ways: is each change found, and named?

The log is read once into memory and shown to the verifier as a source of its own, one value changed: each byte of each
entry, tile, note and stored hash, and of each number and text that says how far things stand. The three ways are a bit
turned, one more, and the byte taken out (in a number: made zero). What must be found is stated per kind of value.

A few columns carry nothing that anybody signs or that follows from the entries. They stand in `WITHOUT_PROOF`, each with
its reason, and the campaign holds that changing them changes no verdict: nobody may come to rely on them unnoticed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.verification.logs import Log, calls, classes, cost, intent

from openrouter_audit.core.checkpoints import Policy, decode_policy
from openrouter_audit.errors import JournalUnavailable, OpenRouterAuditError, UnknownOrigin
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.sqlite import Position
from openrouter_audit.testing.attacks import copy_home
from openrouter_audit.verification.findings import VerificationReport
from openrouter_audit.verification.source import ShownHead
from openrouter_audit.verification.verifier import Verifier

WAYS = ("a bit turned", "one more", "taken out")
WITHOUT_PROOF: Mapping[str, str] = {
    "head at_us": "the time that counts is in the signature; this one only where that fails",
    "position process": "tells which losses may excuse an outcome without an intent; without one it says nothing",
    "position ordinal": "order in which spool files are read; the entries have theirs by then",
    "position offset": "how far a spool file was read: about the spool, which is not the log; entries and last number are proven",
    "position final": "as the offset",
}
"""And, never shown to a verifier: `at_us` of kept checkpoints and of waiting intents, the table `rewrites`, the other files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownLog:
    """A log in memory. Implements `verification.source.LogSource`."""

    shown: ShownHead
    rows: list[tuple[int, bytes]]
    tiles: dict[tuple[int, int], bytes]
    kept: list[tuple[int, bytes]]
    places: dict[str, Position]
    waiting: dict[str, str]

    @classmethod
    def read(cls, evidence: JournalEvidence) -> ShownLog:
        return cls(
            shown=evidence.head(),
            rows=[row for batch in evidence.batches() for row in batch],
            tiles={(level, n): evidence.tile(level, n) or b"" for level, n in evidence.tile_names()},
            kept=[*evidence.checkpoints()],
            places=dict(evidence.positions()),
            waiting=dict(evidence.open_calls()),
        )

    def head(self) -> ShownHead:
        return self.shown

    def batches(self, start: int | None = None) -> Iterator[list[tuple[int, bytes]]]:
        yield self.rows if start is None else [row for row in self.rows if row[0] >= start]

    def tile(self, level: int, n: int) -> bytes | None:
        return self.tiles.get((level, n))

    def tile_names(self) -> Iterator[tuple[int, int]]:
        yield from self.tiles

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        yield from self.kept

    def positions(self) -> Mapping[str, Position]:
        return self.places

    def open_calls(self) -> Mapping[str, str]:
        return self.waiting

    def proven_part(self) -> tuple[object, ...]:
        """All of it but what `WITHOUT_PROOF` lists."""
        positions = {name: (place.entries, place.last_seq) for name, place in self.places.items()}
        return replace(self.shown, at_us=0), self.rows, self.tiles, self.kept, positions, self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a log: how to change it, and what a verifier must say then."""

    kind: str
    value: bytes | str | int
    put: Callable[[Any], ShownLog]
    finding: tuple[str, int | None] | None = None
    """Class and index that must be among the findings; None where being called tampered is enough."""

    @property
    def places(self) -> int:
        return 8 if isinstance(self.value, int) else len(as_bytes(self.value))


@dataclass(slots=True)
class Outcome:
    """What a run over a log found."""

    changes: int = 0
    tampered: int = 0
    cannot_tell: int = 0
    overlooked: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)


def make_log(folder: Path, entries: int) -> tuple[ShownLog, Policy, Path]:
    """A genuine log of so many entries: calls, costs, an intent that waits, checkpoints that are kept; its policy and file."""
    log = Log(folder / "home")
    log.append([intent("waits")])
    log.append(calls(30), keep=True)
    log.append([cost(call, "0.0003136") for call in range(9)], segment="costs")
    log.append(calls((entries - 70) // 2, first=30), keep=True)
    log.close()
    copy = copy_home(log.home.path, folder / "copy")
    with JournalEvidence.open(copy / "journal.db") as evidence:
        shown = ShownLog.read(evidence)
    assert len(shown.rows) == entries
    policy = decode_policy((copy / "policy").read_bytes())
    report = Verifier(shown, policy).verify()
    assert report.verdict == "proven", report.findings
    return shown, policy, copy / "journal.db"


def values_of(log: ShownLog) -> list[Value]:
    """Every value of a log."""
    values: list[Value] = []

    def add(kind: str, value: bytes | str | int, put: Callable[[Any], ShownLog], found: Any = None) -> None:
        values.append(Value(kind=kind, value=value, put=put, finding=found))

    for at, (index, text) in enumerate(log.rows):
        add("entry", text, _row_putter(log, at), ("entry_changed", index))
    for name, tile in log.tiles.items():
        add("tile", tile, lambda new, name=name: replace(log, tiles=log.tiles | {name: new}), ("tile_mismatch", None))
    for column in ("note", "edge", "root_hash", "origin", "tree_size", "at_us"):
        value = getattr(log.shown, column)
        found = {"edge": ("tile_mismatch", None)}.get(column)
        add(
            f"head {column}",
            value,
            lambda new, column=column: replace(log, shown=replace(log.shown, **{column: new})),
            found,
        )
    for at, (size, note) in enumerate(log.kept):
        signature = ("checkpoint_signature", None)
        add(
            "kept note",
            note,
            lambda new, at=at, size=size: replace(log, kept=_with(log.kept, at, (size, new))),
            signature,
        )
        add(
            "kept size",
            size,
            lambda new, at=at, note=note: replace(log, kept=_with(log.kept, at, (new, note))),
            signature,
        )
    mismatch = ("position_mismatch", None)
    for name, place in log.places.items():
        rest = {other: one for other, one in log.places.items() if other != name}
        add(
            "position segment",
            name,
            lambda new, rest=rest, place=place: replace(log, places=rest | {new: place}),
            mismatch,
        )
        for column in ("entries", "last_seq", "process", "ordinal", "offset"):
            add(
                f"position {column}",
                getattr(place, column),
                lambda new, name=name, place=place, column=column: replace(
                    log, places=log.places | {name: replace(place, **{column: new})}
                ),
                mismatch,
            )
    for call, segment in log.waiting.items():
        add("waiting call", call, lambda new, segment=segment: replace(log, waiting={new: segment}), mismatch)
        add("waiting segment", segment, lambda new, call=call: replace(log, waiting={call: new}), mismatch)
    return values


def change_all(
    log: ShownLog, policy: Policy, *, rng: random.Random, sample: int | None = None, kinds: frozenset[str] = frozenset()
) -> Outcome:
    """Change every byte in every way, or a sample of them, or of these kinds; hold the verifier to what it must say."""
    values = [value for value in values_of(log) if not kinds or value.kind in kinds]
    outcome = Outcome()
    for value, place, way in _chosen(values, rng, sample):
        changed = change(value.value, place, way, rng)
        if changed == value.value:
            continue
        outcome.changes += 1
        where = f"{value.kind} {value.finding}: byte {place} {WAYS[way]}"
        try:
            if changed is None:
                raise JournalUnavailable("text that is not UTF-8")  # as JournalEvidence says of a file
            report = Verifier(value.put(changed), policy).verify()
        except (JournalUnavailable, UnknownOrigin):
            outcome.cannot_tell += 1
        except Exception as error:
            outcome.raised.append(f"{where}: {type(error).__name__}: {error}")
        else:
            if value.kind in WITHOUT_PROOF:
                if report.verdict != "proven":
                    outcome.overlooked.append(f"{where}: {report.verdict}, and is listed as without proof")
            elif _is_named(report, value):
                outcome.tampered += 1
            else:
                outcome.overlooked.append(f"{where}: {report.verdict} {classes(report)}")
    return outcome


def change_file(path: Path, original: ShownLog, policy: Policy, *, rng: random.Random, count: int) -> Outcome:
    """
    Change bytes of the database file itself, where SQLite keeps its own: pages, lengths, types, free space.

    Either the verifier says so, or it cannot read the file, or the byte carried nothing: all that is shown is as before.
    """
    data = path.read_bytes()
    outcome = Outcome()
    target = path.with_name("changed.db")
    for _ in range(count):
        place, way = int(rng.random() * len(data)), int(rng.random() * 3)
        changed = change(data, place, way, rng)
        assert isinstance(changed, bytes)
        target.write_bytes(changed)
        outcome.changes += 1
        where = f"file: byte {place} of {len(data)} {WAYS[way]}"
        try:
            with JournalEvidence.open(target) as evidence:
                report = Verifier(evidence, policy).verify()
                if report.verdict != "proven":
                    outcome.tampered += 1
                elif ShownLog.read(evidence).proven_part() != original.proven_part():
                    outcome.overlooked.append(f"{where}: proven, and other than before")
        except OpenRouterAuditError:
            outcome.cannot_tell += 1
        except Exception as error:
            outcome.raised.append(f"{where}: {type(error).__name__}: {error}")
    return outcome


def change(value: bytes | str | int, place: int, way: int, rng: random.Random) -> bytes | str | int | None:
    """A value with one byte changed; None where that is text no more."""
    if isinstance(value, int):
        old = bytearray(value.to_bytes(8, signed=True))
        old[place] = (old[place] ^ 1 << int(rng.random() * 8), (old[place] + 1) & 255, 0)[way]
        return int.from_bytes(old, signed=True)
    data = as_bytes(value)
    new = (bytes([data[place] ^ 1 << int(rng.random() * 8)]), bytes([(data[place] + 1) & 255]), b"")[way]
    changed = data[:place] + new + data[place + 1 :]
    if isinstance(value, bytes):
        return changed
    try:
        return changed.decode()
    except UnicodeDecodeError:
        return None


def as_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _is_named(report: VerificationReport, value: Value) -> bool:
    return report.verdict == "tampered" and (
        value.finding is None or value.finding in classes(report, severity="tampered")
    )


def _chosen(values: Sequence[Value], rng: random.Random, sample: int | None) -> Iterator[tuple[Value, int, int]]:
    if sample is None:
        yield from ((value, place, way) for value in values for place in range(value.places) for way in range(3))
        return
    kinds: dict[str, list[Value]] = {}
    for value in values:
        kinds.setdefault(value.kind, []).append(value)
    for number in range(
        sample
    ):  # half of them in entries, which are nearly all of a log; the others in every kind alike
        chosen = kinds["entry"] if number % 2 and "entry" in kinds else kinds[list(kinds)[number // 2 % len(kinds)]]
        value = chosen[int(rng.random() * len(chosen))]
        yield value, int(rng.random() * value.places), int(rng.random() * 3)


def _row_putter(log: ShownLog, at: int) -> Callable[[Any], ShownLog]:
    return lambda new: replace(log, rows=_with(log.rows, at, (log.rows[at][0], new)))


def _with(rows: list[Any], at: int, new: Any) -> list[Any]:
    return [*rows[:at], new, *rows[at + 1 :]]

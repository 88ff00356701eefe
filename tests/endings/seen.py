"""
What a caller sees of a call: result or exception, pieces, warnings. And the log, which has to be right about it.
"""

from __future__ import annotations

import contextlib
import gc
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests.journal.homes import check_log, drain, of_kind

from openrouter_audit import AuditLog
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.core.entries import CallIntent, CallOutcome

_VARYING = re.compile(r"0x[0-9a-f]+|\bfd=\d+|\(('127\.0\.0\.1', )?\d+\)|Task-\d+|(?<=cancel scope )[0-9a-f]+")
NOWHERE = "nowhere.invalid"
WATCHED = HostSet(["127.0.0.1", "localhost", NOWHERE])


@dataclass(slots=True)
class Seen:
    """Everything of a call that its caller could tell apart."""

    result: Any = None
    error: list[tuple[Any, ...]] = field(default_factory=list)
    pieces: list[Any] = field(default_factory=list)
    warned: list[tuple[str, str]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    """What the server received."""


def assert_same(bare: Seen, recorded: Seen) -> None:
    """A caller cannot tell the two apart."""
    pairs = {name: (getattr(bare, name), getattr(recorded, name)) for name in Seen.__slots__}
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert not wrong, f"bare and recorded: {wrong}"


def look(action: Callable[[], Any]) -> Seen:
    """Do it, and keep what shows: whatever is raised, exits and interrupts included, and what garbage says when collected."""
    seen = Seen()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            seen.result = action()
        except BaseException as error:
            seen.error = described(error)
            error.__traceback__ = None
            del error
        gc.collect(1)
    seen.warned = [(warning.category.__name__, _VARYING.sub("~", str(warning.message))) for warning in warned]
    return seen


def described(error: BaseException | None) -> list[tuple[Any, ...]]:
    """An exception and those behind it: class, arguments, text, and by which way each leads to the next."""
    found: list[tuple[Any, ...]] = []
    while error is not None and len(found) < 12:
        arguments = _VARYING.sub("~", repr(error.args))
        way = "cause" if error.__cause__ is not None else "context" if error.__context__ is not None else None
        found.append(
            (type(error).__module__, type(error).__qualname__, arguments, _VARYING.sub("~", str(error)),
             way, error.__suppress_context__, type(error.__context__).__qualname__)
        )  # fmt: skip
        error = error.__cause__ or error.__context__
    return found


class Ledger:
    """A recorder that is a real log on a real home, and shows what passes through it."""

    def __init__(self, audit: AuditLog) -> None:
        self.audit = audit
        self.mode, self.policy = audit.mode, audit.policy
        self.sync = audit.sync
        self.finished = audit.finished
        self.facts: list[Any] = []
        self._fresh = 0

    def write(self, facts: Any, private: Any = None, *, follows: object | None = None) -> object:
        token = self.audit.write(facts, private, follows=follows)
        self.facts.append(facts)
        return token

    @contextlib.contextmanager
    def recording(self) -> Iterator[Ledger]:
        """Every client of the process is watched; nothing of ours may fail in it."""
        faults.counts.clear()
        self._fresh = len(self.facts)
        instrument(self, WATCHED)
        try:
            yield self
        finally:
            uninstrument()
        assert {} == faults.counts

    def calls(self) -> list[tuple[CallIntent, CallOutcome | None]]:
        """Of the newest recording, each intent with the outcome that came after it; nothing may be left over."""
        found: dict[str, list[Any]] = {}
        for facts in self.facts[self._fresh :]:
            if isinstance(facts, CallIntent):
                assert facts.id not in found
                found[facts.id] = [facts, None]
            elif isinstance(facts, CallOutcome):
                assert found[facts.id][1] is None, "two outcomes"
                found[facts.id][1] = facts
        return [(intent, outcome) for intent, outcome in found.values()]

    def only(self) -> CallOutcome:
        """The outcome of the newest recording's one call."""
        ((intent, outcome),) = self.calls()
        assert outcome is not None, intent
        return outcome

    def prove(self) -> None:
        """Drain the home: the log is whole, and says of each call what was written."""
        entries = drain(self.audit.home)
        told = {facts.id: facts for facts in self.facts if isinstance(facts, CallOutcome)}
        intents = [facts.id for facts in self.facts if isinstance(facts, CallIntent)]
        assert sorted(intents) == sorted(entry["id"] for entry in of_kind(entries, "call.intent"))
        outcomes = {entry["id"]: entry for entry in of_kind(check_log(self.audit.home), "call.outcome")}
        assert told.keys() == outcomes.keys()
        for call, entry in outcomes.items():
            wanted = told[call]
            assert (wanted.status, wanted.complete, wanted.response_bytes, wanted.cost) == (
                entry["status"], entry["complete"], entry.get("response_bytes"), entry.get("cost"),
            )  # fmt: skip
        assert [] == of_kind(entries, "log.loss")


def assert_says(outcome: CallOutcome, expected: dict[str, Any]) -> None:
    """The outcome holds these facts."""
    facts = msgspec.structs.asdict(outcome)
    wrong = {name: (value, facts[name]) for name, value in expected.items() if value != facts[name]}
    assert not wrong, f"expected and recorded: {wrong}"

"""The follower: each call at least once, in order, and never before the receiver has taken what was before it."""

import json
import os

import pytest
from tests.journal.homes import an_intent, an_outcome, drain, new_home, new_spool, write_calls

from openrouter_audit.core.entries import Context, Private, Span
from openrouter_audit.core.merkle import leaf_hash
from openrouter_audit.errors import TelemetryUnavailable
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.telemetry import emitter as module
from openrouter_audit.telemetry.emitter import Emitter


class FakeExport:
    """Keeps what it was sent; `fails` in two forms: before it is kept, or although it is."""

    def __init__(self):
        self.calls, self.fails = [], None
        self.made = self.closed = 0

    def __call__(self):
        self.made += 1
        return self

    def send(self, calls):
        if self.fails != "lost":
            self.calls += calls
        if self.fails:
            raise TelemetryUnavailable("sick")

    def close(self):
        self.closed += 1

    @property
    def ids(self):
        return [call.outcome.id for call in self.calls]


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


@pytest.fixture
def export():
    return FakeExport()


def emitter_of(home, export, **options):
    options = {"since_us": 0} | options
    return Emitter(
        journal=home.journal_path, vault=home.vault_path, place=home.path / "telemetry", make_export=export, **options
    )


def test_each_call_is_told_once_with_its_proof(home, export):
    spool = new_spool(home)
    emitter = emitter_of(home, export)
    assert 0 == emitter.follow()
    assert 0 == export.made  # the SDK is not loaded for nothing
    ids = write_calls(spool, 3)
    entries = drain(home)
    assert len(entries) == emitter.follow() == emitter.follow()
    assert ids == export.ids
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        texts = dict(journal.entries())
    for call in export.calls:
        assert call.outcome.id == entries[call.index]["id"] == call.intent.id
        assert leaf_hash(texts[call.index].encode()) == call.leaf_hash
        assert "openai/gpt-4.1-mini" == call.model
        assert "0.0003136" == call.outcome.cost
    emitter.close()
    assert 1 == export.closed


@pytest.mark.parametrize("how", ["lost", "kept"])
def test_what_the_receiver_did_not_take_is_told_again(home, export, how):
    """
    Kept though it failed: told twice, under the same ids. Nothing is passed over.
    """
    emitter = emitter_of(home, export)
    first = write_calls(spool := new_spool(home), 2)
    drain(home)
    export.fails = how
    for _ in range(2):
        with pytest.raises(TelemetryUnavailable):
            emitter.follow()
    second = write_calls(spool, 1)
    drain(home)
    export.fails = None
    emitter.follow()
    assert first + second == list(dict.fromkeys(export.ids))
    assert (first * 2 if how == "kept" else []) + first + second == export.ids


def test_it_goes_on_where_it_stood_and_knows_what_was_open_there(home, export, monkeypatch):
    """
    A call's intent came before the end of the process that told, its outcome after it.
    """
    monkeypatch.setattr(module, "BATCH_ENTRIES", 2)
    spool = new_spool(home)
    intent = an_intent(model="a/waits")
    token = spool.write(intent)
    told = write_calls(spool, 2)
    drain(home)
    emitter = emitter_of(home, export)
    emitter.follow()
    emitter.close()
    spool.write(an_outcome(intent), follows=token)
    drain(home)
    emitter = emitter_of(home, export)
    emitter.follow()
    assert [*told, intent.id] == export.ids
    assert "a/waits" == export.calls[-1].model
    assert {} == json.loads((home.path / "telemetry").read_text())["open"]
    assert 0o600 == (home.path / "telemetry").stat().st_mode & 0o777
    emitter.close()


def test_it_begins_with_what_ends_after_it_was_switched_on(home, export):
    spool = new_spool(home)
    old = an_intent()
    spool.write(an_outcome(old, at_us=1_000), follows=spool.write(old))
    new = an_intent()
    spool.write(an_outcome(new, at_us=3_000), follows=spool.write(new))
    drain(home)
    emitter = emitter_of(home, export, since_us=2_000)
    emitter.follow()
    assert [new.id] == export.ids
    assert {} == emitter._place.open
    emitter.close()


def test_one_of_several_tells_and_another_goes_on_when_it_is_gone(home, export):
    spool = new_spool(home)
    first, second = emitter_of(home, export), emitter_of(home, export)
    ids = write_calls(spool, 1)
    drain(home)
    assert 0 < first.follow()
    assert 0 == second.follow()
    first.close()
    ids += write_calls(spool, 1)
    drain(home)
    assert 0 < second.follow()
    assert ids == export.ids
    second.close()


def test_a_forked_child_holds_no_lease_of_its_parent(home, export):
    """
    The child lives on and tells nothing; who comes after the parent can.
    """
    write_calls(new_spool(home), 1)
    drain(home)
    first = emitter_of(home, export)
    first.follow()
    inherited, parents = os.pipe()
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        os.close(parents)
        os.write(said, b"x")
        os.read(inherited, 1)
        os._exit(0)
    try:
        os.read(heard, 1)  # it is in its own code by now, and has let go
        first.close()
        second = emitter_of(home, export)
        assert 0 < second.follow()
        second.close()
    finally:
        for descriptor in (parents, inherited, heard, said):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_many_open_calls_are_bounded_and_told_all_the_same(home, export, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    spool = new_spool(home)
    waiting = [an_intent(model="a/b") for _ in range(4)]
    tokens = [spool.write(intent) for intent in waiting]
    drain(home)
    emitter = emitter_of(home, export)
    emitter.follow()
    assert 2 == len(emitter._place.open) == len(emitter._intents)
    for intent, token in zip(waiting, tokens, strict=True):
        spool.write(an_outcome(intent), follows=token)
    drain(home)
    emitter.follow()
    assert [intent.id for intent in waiting] == export.ids
    assert [None, None, "a/b", "a/b"] == [call.model for call in export.calls]
    emitter.close()


@pytest.mark.parametrize("user_ids", [False, True])
def test_nobody_is_named_unless_asked_for_and_the_span_around_the_call_always_is(home, export, user_ids):
    spool = new_spool(home)
    intent = an_intent()
    context = Context(span=Span(trace_id="5b" * 16, span_id="ee" * 8))
    token = spool.write(intent, Private(user="alice", session="s-1", context=context))
    spool.write(an_outcome(intent), follows=token)
    drain(home)
    emitter = emitter_of(home, export, user_ids=user_ids)
    emitter.follow()
    (call,) = export.calls
    assert ("5b" * 16, "ee" * 8) == (call.trace_id, call.parent_id)
    assert (("alice", "s-1") if user_ids else (None, None)) == (call.user, call.session)
    assert "alice" not in repr(call)
    emitter.close()


def test_a_place_that_cannot_be_read_is_no_reason_to_begin_anew(home, export):
    """
    Somebody has to look: beginning anew could leave calls out.
    """
    (home.path / "telemetry").write_text("{")
    with pytest.raises(TelemetryUnavailable):
        emitter_of(home, export).follow()

"""What can be erased: its file through the formats it has had, and what it keeps of a call."""

import apsw
import msgspec
import pytest
from tests.journal.homes import an_intent, an_outcome, drain, new_home, new_spool, of_kind

from openrouter_audit.core.entries import Claimed, Content, Context, Decision, Private
from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.vault import PrivateCall, Vault

FIRST_FORMAT = (
    "CREATE TABLE subjects (reference TEXT PRIMARY KEY, user_id TEXT, month TEXT NOT NULL, wrapped_key BLOB,"
    " epoch INTEGER, UNIQUE (user_id, month)) STRICT, WITHOUT ROWID",
    "CREATE TABLE aliases (alias TEXT PRIMARY KEY, reference TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE calls (call_id TEXT PRIMARY KEY, subject TEXT, commitment_key BLOB, tenant TEXT, session_id TEXT,"
    " purpose TEXT, tags TEXT, base_url TEXT, path TEXT, wrapped_key BLOB, epoch INTEGER) STRICT, WITHOUT ROWID",
    "CREATE TABLE notes (id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (id, name))"
    " STRICT, WITHOUT ROWID",
    "CREATE INDEX calls_subject ON calls (subject)",
    "INSERT INTO calls (call_id, subject, session_id, tags) VALUES ('c1', 'r1', 's1', '{\"team\":\"x\"}')",
    "INSERT INTO subjects (reference, user_id, month) VALUES ('r1', 'alice', '2026-11')",
    "PRAGMA user_version = 1",
)
"""As homes made by the first release have it, with a call in it. It is never changed."""
OLD_CALL = PrivateCall(call_id="c1", subject="r1", session_id="s1", tags={"team": "x"})
CONTEXT = Context(
    claimed=Claimed(user="mallory", metadata={"ticket": "5"}, trace={"trace_name": "t"}, fills=("session_id",)),
    decision=Decision(rule="cheapest", version="3", arm="b"),
)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "vault.db"
    connection = apsw.Connection(str(path))
    for statement in FIRST_FORMAT:
        connection.execute(statement)
    connection.close()
    return path


def test_a_vault_of_the_first_format_is_read_as_it_is(old):
    """
    Somebody reads who may not write, or whose sequencer is a program of before: nothing is changed for that.
    """
    with Vault.open(old, read_only=True) as vault:
        assert {"c1": OLD_CALL} == vault.calls(["c1"])
        assert {"r1": "alice"} == vault.users(["r1"])
        assert 1 == vault._connection.execute("PRAGMA user_version").get


def test_a_vault_of_the_first_format_is_brought_to_this_one_by_whoever_writes(old):
    with Vault.open(old) as vault, Vault.open(old) as second:
        assert 3 == vault._connection.execute("PRAGMA user_version").get
        second.put_calls([PrivateCall(call_id="c2", context=CONTEXT)])
        second.commit()
        assert {"c1": OLD_CALL, "c2": PrivateCall(call_id="c2", context=CONTEXT)} == vault.calls(["c1", "c2"])
    with Vault.open(old, read_only=True) as vault:
        assert CONTEXT == vault.calls(["c2"])["c2"].context


def test_a_vault_brought_to_this_format_is_as_one_made_in_it(old, tmp_path):
    """The same columns, under the same names and in the same order."""

    def columns(path):
        with Vault.open(path) as vault:
            return [
                list(vault._connection.execute(f"PRAGMA table_info({table})"))
                for table in ("subjects", "aliases", "calls", "contents", "notes")
            ]

    assert columns(tmp_path / "new.db") == columns(old)


def test_a_crash_on_the_way_to_this_format_leaves_the_old_one(old, monkeypatch):
    from openrouter_audit.journal import vault as module

    monkeypatch.setattr(module, "_UPGRADES", {1: (*module._UPGRADES[1][:1], "SELECT no_such_function()")})
    with pytest.raises(JournalUnavailable):
        Vault.open(old)
    monkeypatch.undo()
    with Vault.open(old, read_only=True) as vault:
        assert 1 == vault._connection.execute("PRAGMA user_version").get
    with Vault.open(old) as vault:
        assert {"c1": OLD_CALL} == vault.calls(["c1"])


@pytest.mark.parametrize("read_only", [True, False])
def test_a_vault_of_a_format_to_come_is_refused(old, read_only):
    connection = apsw.Connection(str(old))
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    with pytest.raises(JournalUnavailable, match="format 4"):
        Vault.open(old, read_only=read_only)


def test_what_a_call_carried_reaches_the_vault_and_not_the_entry(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    spool.write(an_intent(), Private(user="alice", context=CONTEXT))
    entries = drain(home)
    (intent,) = of_kind(entries, "call.intent")
    assert not [word for word in ("mallory", "cheapest", "ticket") if word in str(entries)]
    with Vault.open(home.vault_path, read_only=True) as vault:
        assert CONTEXT == vault.calls([intent["id"]])[intent["id"]].context


def test_a_context_that_is_not_as_it_should_be_costs_nothing_else(tmp_path):
    """
    A strange value in it: the call keeps its key, its person and its session.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    strange = Context(claimed=Claimed(metadata={"n": 3}))
    spool.write(an_intent(), Private(user="alice", session="s", commitment_key=bytes(32), context=strange))
    (intent,) = of_kind(drain(home), "call.intent")
    with Vault.open(home.vault_path, read_only=True) as vault:
        kept = vault.calls([intent["id"]])[intent["id"]]
    assert ("s", bytes(32), None) == (kept.session_id, kept.commitment_key, kept.context)
    assert intent["subject"] == kept.subject


BODY = Content(mode="redacted", text=b"{}", whole_bytes=2)


def test_bodies_reach_the_vault_with_their_records_and_no_entry(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent, Private(content=BODY))
    spool.write(
        an_outcome(intent), Private(content=msgspec.structs.replace(BODY, text=b"canary", cut="size")), follows=token
    )
    entries = drain(home)
    assert "canary" not in str(entries)
    with Vault.open(home.vault_path, read_only=True) as vault:
        kept = vault.contents(intent.id)
        assert {} == vault.contents("0" * 32)
    assert ["request", "answer"] == list(kept)
    assert (BODY, b"canary", "size") == (kept["request"], kept["answer"].text, kept["answer"].cut)


def test_a_spool_that_fills_leaves_bodies_out_and_says_so(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    spool.drops_bodies = True
    intent = an_intent()
    spool.write(intent, Private(user="alice", content=BODY))
    drain(home)
    with Vault.open(home.vault_path, read_only=True) as vault:
        assert Content(mode="redacted", text=b"", whole_bytes=2, cut="spool") == vault.contents(intent.id)["request"]


def test_bodies_do_not_make_a_transaction_of_any_size(tmp_path):
    """
    Eight MiB are a batch, whatever of it is bodies: memory stays flat however much waits.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    body = msgspec.structs.replace(BODY, text=bytes(190_000))
    for _ in range(100):
        spool.write(an_intent(), Private(content=body))
    sizes = []
    sequencer = Sequencer(home)
    put = sequencer._vault.put_contents
    sequencer._vault.put_contents = lambda contents: (sizes.append(len(contents)), put(contents))
    sequencer.drain()
    sequencer.close()
    assert 100 == sum(sizes)
    assert max(sizes) < 50


def test_a_vault_without_bodies_is_read_as_it_is(old):
    with Vault.open(old, read_only=True) as vault:
        assert {} == vault.contents("c1")

"""The follower: rows depend on the entries, and on nothing about how they were read."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reports.histories import KEY_HASH, START_US, History, cost, imported, intent, outcome, ref

from openrouter_audit.core.entries import Facts, ToolCall
from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.rows import COLUMNS
from openrouter_audit.reports.tables.sqlite import SqliteReports

A, B, C = ref("a"), ref("b"), ref("c")


def row_of(folder: Path, *entries: Facts, call: str = A) -> dict:
    with History(folder, entries).reports() as reports:
        (row,) = reports.rows_of([call])
        return row


def every_row(reports: SqliteReports) -> list[dict]:
    with reports:
        return list(reports.rows())


def test_the_columns_of_calls_are_those_of_the_contract_in_its_order(tmp_path):
    """Other programs read the file by position as well as by name."""
    History(tmp_path).reports().close()
    connection = apsw.Connection(str(tmp_path / "reports.db"), flags=apsw.SQLITE_OPEN_READONLY)
    names = tuple(row[1] for row in connection.execute("PRAGMA table_info(calls)"))
    connection.close()

    assert COLUMNS == names
    assert 48 == len(names)


def test_a_settled_call_shows_what_was_billed_and_what_was_said(tmp_path):
    """Intent, outcome and cost of one call become one row, digits as they were sent."""
    row = row_of(
        tmp_path,
        intent(A, subject=ref("person")),
        outcome(A, cost="1e-7", prompt_tokens=11, first_token_us=90_001),
        cost(A, "0.0076509169000000005"),
    )

    assert "2026-11-23T10:15:00.123456Z" == row["timestamp"]
    assert ("0.0076509169000000005", "generation", "settled") == (
        row["total_cost"],
        row["cost_source"],
        row["cost_state"],
    )
    assert ("1e-7", "0.0076509169000000005") == (row["response_cost"], row["generation_cost"])
    assert ("812.345", "90.001") == (row["latency_ms"], row["first_token_ms"])
    assert (0, 1, 2) == (row["intent_index"], row["outcome_index"], row["cost_index"])
    assert (ref("person"), None) == (row["subject_ref"], row["user_id"])


def test_what_an_abandoned_stream_did_not_say_comes_from_the_generation_record(tmp_path):
    """No usage chunk came; the record knows tokens and provider."""
    row = row_of(
        tmp_path,
        intent(A, stream=True),
        outcome(A, status="abandoned", complete=False, provider=None, last_byte_us=None),
        cost(A, "0.5", prompt_tokens=7, completion_tokens=3, provider="Azure"),
    )

    assert (7, 3, "Azure", None) == (
        row["prompt_tokens"],
        row["completion_tokens"],
        row["provider"],
        row["latency_ms"],
    )


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"cost": "0.1"}, "provisional"),
        ({}, "provisional"),
        ({"status": "refused", "complete": False, "http_status": None, "generation_id": None}, "none"),
        ({"status": "error", "http_status": 402, "generation_id": None}, "none"),
        ({"status": "error", "http_status": 502, "generation_source": "header"}, "none"),
        ({"status": "error", "http_status": 502, "generation_source": "body"}, "provisional"),
        ({"status": "error", "complete": False, "error_type": "connect", "generation_id": None}, "none"),
        ({"status": "timeout", "complete": False, "http_status": None, "generation_id": None}, "unresolved"),
        ({"status": "unknown", "complete": False, "http_status": None, "generation_id": None}, "unresolved"),
        ({"status": "error", "complete": True, "generation_id": None, "error_source": "body"}, "none"),
        ({"status": "error", "complete": False, "generation_id": None, "error_type": "truncated"}, "unresolved"),
    ],
)
def test_a_call_can_cost_something_only_where_a_generation_may_have_begun(tmp_path, fields, state):
    """Unknown is not none: what may have been billed is never called free."""
    row = row_of(tmp_path, intent(A), outcome(A, **fields))

    assert state == row["cost_state"]
    assert fields.get("cost") == row["total_cost"]


def test_the_last_word_about_a_cost_counts(tmp_path):
    """Unresolved first, settled later by hand; and the other way round."""
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    settled = row_of(first, intent(A), outcome(A), cost(A, None), cost(A, "2"))
    lost = row_of(second, intent(A), outcome(A, cost="1"), cost(A, "2"), cost(A, None))

    assert ("2", "settled", 3) == (settled["total_cost"], settled["cost_state"], settled["cost_index"])
    assert ("1", "response", "unresolved") == (lost["total_cost"], lost["cost_source"], lost["cost_state"])


def test_a_generation_seen_before_is_counted_once(tmp_path):
    """The later call keeps its row and its figures, and has no total."""
    entries = [intent(A), intent(B), outcome(B, generation_id="gen-1", cost="1")]
    history = History(tmp_path, [*entries, outcome(A, generation_id="gen-1", cost="1"), cost(A, "1")])
    with history.reports() as reports:
        later, earlier = reports.rows_of([A, B])

    assert (B, None, None, "1") == (
        later["duplicate_of"],
        later["total_cost"],
        later["cost_source"],
        later["generation_cost"],
    )
    assert (None, "1") == (earlier["duplicate_of"], earlier["total_cost"])


def test_an_open_call_is_open(tmp_path):
    """Its outcome may still come; nothing is said about its cost."""
    row = row_of(tmp_path, intent(A))

    assert ("open", None, None, "provisional") == (
        row["status"],
        row["complete"],
        row["total_cost"],
        row["cost_state"],
    )


def test_an_imported_row_is_marked_by_what_it_lacks(tmp_path):
    """No intent, no group, no SDK: nobody watched that call."""
    row = row_of(tmp_path, imported(A, total_cost="0.25", latency_ms="812.3456", generation_id="gen-1"))

    assert (None, None, None, None) == (row["intent_index"], row["group_id"], row["sdk"], row["complete"])
    assert ("0.25", "settled", "812.346") == (row["total_cost"], row["cost_state"], row["latency_ms"])


def test_entries_of_other_kinds_and_later_recorders_are_passed_over(tmp_path):
    """A kind we do not know, and fields we do not know, are for others."""
    history = History(tmp_path, [intent(A)])
    connection = history.journal._connection
    connection.execute("""INSERT INTO entries VALUES (1, '{"kind":"call.sung","id":"x","at_us":1}')""")
    connection.execute(f"""INSERT INTO entries VALUES (2, '{{"kind":"call.outcome","id":"{A}","at_us":1,"new":[1],
        "status":"success"}}')""")
    connection.execute("UPDATE head SET tree_size = 3")
    with history.reports() as reports:
        (row,) = reports.rows()

    assert "success" == row["status"]


call_numbers = st.integers(0, 5)
prices = st.sampled_from(["1e-7", "0.0076509169000000005", "0", "3.10", "12"])
an_entry = st.one_of(
    st.builds(lambda n: intent(ref(n), at_us=START_US + n), call_numbers),
    st.builds(
        lambda n, g, price: outcome(ref(n), generation_id=f"gen-{g}", cost=price),
        call_numbers,
        call_numbers,
        st.none() | prices,
    ),
    st.builds(lambda n: outcome(ref(n), status="unknown", complete=False, generation_id=None), call_numbers),
    st.builds(lambda n, price: cost(ref(n), price), call_numbers, st.none() | prices),
    st.builds(lambda n, g: imported(ref(n), generation_id=f"gen-{g}", total_cost="5"), call_numbers, call_numbers),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(an_entry, max_size=24), seed=st.integers(0, 2**16))
def test_it_does_not_matter_where_the_batches_are_cut(entries, seed):
    """All at once, one by one, or in pieces by several projectors: the rows are the same, in the same order."""
    with tempfile.TemporaryDirectory() as name:
        history = History(Path(name), entries)
        whole = every_row(history.reports(name="whole.db"))
        single = every_row(history.reports(name="single.db", batch_entries=1))
        dice = random.Random(seed)
        stop = 0
        while stop < history.size:
            stop += dice.randint(1, 5)
            with SqliteReports.open(Path(name) / "pieces.db") as store:
                Projector(history.journal, store, batch_entries=dice.randint(1, 4)).project(until=stop)
        pieces = every_row(history.reports(name="pieces.db"))
        history.journal.close()

    assert whole == single == pieces


def test_a_file_that_follows_another_log_is_made_anew(tmp_path):
    """The rows of another home were copied here; they are not shown for a moment."""
    other, mine = tmp_path / "other", tmp_path / "mine"
    other.mkdir()
    mine.mkdir()
    History(other, [intent(C)] * 1, origin="elsewhere").reports().close()
    (other / "reports.db").rename(mine / "reports.db")
    with History(mine, [intent(A), outcome(A)]).reports() as reports:
        assert [A] == [row["call_id"] for row in reports.rows()]


def test_a_file_ahead_of_its_log_is_made_anew(tmp_path):
    """The journal was restored from a back-up; what the rows know beyond it is not evidence of anything."""
    longer, shorter = tmp_path / "1", tmp_path / "2"
    longer.mkdir()
    shorter.mkdir()
    History(longer, [intent(A), outcome(A), intent(B)]).reports().close()
    (longer / "reports.db").rename(shorter / "reports.db")
    with History(shorter, [intent(A)]).reports() as reports:
        assert ["open"] == [row["status"] for row in reports.rows()]


def test_a_file_of_a_log_with_another_past_is_made_anew(tmp_path):
    """Same name and size, but the last entry that was projected is no longer the one in the log."""
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    History(one, [intent(A)]).reports().close()
    (one / "reports.db").rename(two / "reports.db")
    with History(two, [intent(B)]).reports() as reports:
        assert [B] == [row["call_id"] for row in reports.rows()]


@pytest.mark.parametrize("damage", ["format", "garbage", "missing"])
def test_a_file_that_cannot_be_used_is_made_anew(tmp_path, damage):
    """Of another format, overwritten, or deleted: nothing in it is worth keeping."""
    history = History(tmp_path, [intent(A), outcome(A)])
    before = every_row(history.reports())
    path = tmp_path / "reports.db"
    if damage == "format":
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA user_version = 999")
        connection.close()
    elif damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    else:
        path.unlink()

    assert before == every_row(history.reports())


def test_the_file_is_for_its_owner_only(tmp_path):
    """It names no people, and is nobody else's business all the same."""
    History(tmp_path, [intent(A)]).reports().close()

    assert 0o600 == (tmp_path / "reports.db").stat().st_mode & 0o777


def test_of_two_projectors_the_slower_one_writes_nothing(tmp_path):
    """The cursor moved between its reading and its writing: the fence holds, and it goes on from there."""
    history = History(tmp_path, [intent(A), outcome(A)])

    class Overtaken(SqliteReports):
        advances = 0

        def advance(self, rows, asked=(), *, expected, cursor):
            if not self.advances:
                history.reports().close()
            Overtaken.advances += 1
            done = super().advance(rows, asked, expected=expected, cursor=cursor)
            assert not done
            return done

    with Overtaken.open(tmp_path / "reports.db") as store:
        assert 2 == Projector(history.journal, store).project()
    assert 1 == Overtaken.advances
    assert 1 == len(every_row(history.reports()))


def asking(call, *ids, **fields):
    return outcome(call, tool_calls=tuple(ToolCall(id=each, name="find", argument_bytes=2) for each in ids), **fields)


@pytest.mark.parametrize("batch_entries", [1, 2, 3_000])
def test_a_request_with_results_finds_the_call_that_asked(tmp_path, batch_entries):
    """
    The last one before it; with ids that begin anew in each conversation, the one with the same key. Batches do not matter.
    """
    other_key = {"key_hash": "e" * 64}
    history = History(
        tmp_path,
        [
            intent(A), asking(A, "call_1", "0"), asking(A, "second-outcome"),
            intent(B, **other_key), asking(B, "0"),
            intent(C, tool_results=("call_1", "0", "later")), asking(C, "later"),
        ],
    )  # fmt: skip
    with history.reports(batch_entries=batch_entries) as reports:
        asked = ("call_1", "0", "later", "second-outcome")
        assert {"call_1": A, "0": A} == reports.askers(asked, before=5, key_hash=KEY_HASH)
        assert {"call_1": A, "0": B} == reports.askers(asked, before=5, key_hash="e" * 64)
        assert {"call_1": A, "0": B} == reports.askers(asked, before=5, key_hash=None)
        assert {"call_1": A, "0": A} == reports.askers(asked, before=4, key_hash="e" * 64)
        assert {"call_1": A, "0": A, "later": C} == reports.askers(asked, before=7, key_hash=KEY_HASH)


def test_a_gap_in_the_journal_is_not_passed_over(tmp_path):
    """A deleted entry would shift nothing, and silently lose a call."""
    history = History(tmp_path, [intent(A), intent(B), intent(C)])
    connection = history.journal._connection
    connection.execute("DROP TRIGGER entries_no_DELETE".lower())
    connection.execute("DELETE FROM entries WHERE idx = 1")
    with SqliteReports.open(tmp_path / "reports.db") as store, pytest.raises(JournalUnavailable):
        Projector(history.journal, store).project()

"""What the entries of a genuine, signed log say about each other."""

from __future__ import annotations

import msgspec
import pytest
from tests.verification.logs import START_US, Log, calls, classes, cost, intent, loss, outcome, ref, unreadable

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.entries import Writer
from openrouter_audit.journal.segments import HEADER_BYTES
from openrouter_audit.journal.sqlite import Position
from openrouter_audit.verification.calls import CallCheck


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "home")
    yield log
    log.close()


def verdict_and_findings(log, **options):
    report = verify_home(log.home, **options)
    return report.verdict, classes(report)


def test_an_empty_log_is_proven(log):
    """Its first checkpoint is of size 0, signed like every other."""
    report = verify_home(log.home)

    assert ("proven", ()) == (report.verdict, report.findings)
    assert 0 == report.tree_size


def test_an_outcome_without_intent_is_named(log):
    log.append([*calls(2), outcome("stray")])

    assert ("tampered", [("outcome_without_intent", 4)]) == verdict_and_findings(log)


def test_an_outcome_before_its_intent_is_named(log):
    log.append([outcome("a"), intent("a")])
    verdict, found = verdict_and_findings(log)

    assert "tampered" == verdict
    assert ("outcome_without_intent", 0) in found


@pytest.mark.parametrize("recorded", [loss("x"), unreadable("x")])
def test_a_recorded_loss_of_the_same_writer_covers_it(log, recorded):
    """Its frame was torn or unreadable: that is known, so nobody tampered."""
    log.append([outcome("a")], segment="torn")
    log.append([recorded], segment="torn")
    verdict, found = verdict_and_findings(log)

    assert "incomplete" == verdict
    assert ("outcome_without_intent", 0) in found


def test_a_recorded_loss_of_a_later_segment_of_the_process_covers_it(log):
    """The outcome may stand in a later segment than its intent (C27); here both are of one process."""
    log.append([loss("x")], segment="first")
    log.append([outcome("a")], segment="second")

    assert "incomplete" == verdict_and_findings(log)[0]


def test_a_second_outcome_and_a_second_intent_are_extra(log):
    log.append([intent("a"), outcome("a"), outcome("a", status="error"), intent("b"), intent("b"), outcome("b")])
    log.append([intent("c"), outcome("c"), intent("c"), outcome("c")])
    verdict, found = verdict_and_findings(log)

    assert "tampered" == verdict
    assert [("entry_extra", 2), ("entry_extra", 4), ("entry_extra", 8), ("entry_extra", 9)] == [
        one for one in found if one[0] == "entry_extra"
    ]


def test_a_frame_that_became_two_entries_is_named(log):
    twice = Writer(segment=ref("segment"), seq=0)
    log.append([intent("a"), msgspec.structs.replace(outcome("a"), writer=twice)])
    verdict, found = verdict_and_findings(log)

    assert "tampered" == verdict
    assert ("entry_extra", 1) in found


def test_frames_in_another_order_are_no_finding(log):
    """Threads write without a lock, so numbers of one segment may stand out of order; gaps were never acknowledged."""
    shuffled = [2, 0, 1, 7, 4]
    entries = [msgspec.structs.replace(intent(seq), writer=Writer(segment=ref("segment"), seq=seq)) for seq in shuffled]
    log.append(entries)
    with log.journal._connection as connection:
        connection.execute("UPDATE positions SET last_seq = 7")

    assert ("proven", []) == verdict_and_findings(log)


def test_an_intent_that_waits_over_an_hour_is_incomplete(log):
    """Measured to the time of the checkpoint; or to any time a caller gives."""
    log.append([intent("waits"), *calls(1)], minutes=59)
    assert "proven" == verify_home(log.home).verdict
    assert "incomplete" == verify_home(log.home, now_us=START_US + 3601 * 1_000_000).verdict

    log.append(calls(1, first=1), minutes=2)
    assert ("incomplete", [("open_intent", 0)]) == verdict_and_findings(log)


def test_losses_are_incomplete_and_counted(log):
    log.append([*calls(1), loss("one", count=3), unreadable("two")])
    report = verify_home(log.home)

    assert "incomplete" == report.verdict
    assert [("loss", 2), ("unreadable", 3)] == classes(report)
    assert 1 == report.counts.losses


def test_what_is_only_good_to_know_takes_nothing_away(log):
    """Unknown outcomes, a generation id seen twice, and a cost that stayed unknown; one found later is none."""
    log.append([intent("a"), outcome("a", generation_id="gen-1"), intent("b"), outcome("b", generation_id="gen-1")])
    log.append([intent("c"), outcome("c", status="unknown", complete=False, generation_id=None, cost=None)])
    log.append([cost("a", None), cost("b", None), cost("b", "0.1")])
    report = verify_home(log.home)

    assert "proven" == report.verdict
    assert [("unknown_outcome", 5), ("duplicate_generation", 3), ("unresolved_cost", 6)] == classes(report)
    assert 1 == report.counts.unknown


def test_a_cost_that_came_at_once_and_a_kind_of_a_later_version_are_no_findings(log):
    """Nothing waited for that cost; and what this version does not know, it passes over."""
    log.append([*calls(1), cost(0, "0.1")])
    check = CallCheck()
    check.add([(0, b'{"at_us":1,"id":"a","kind":"call.later","later":[1]}')])

    assert ("proven", []) == verdict_and_findings(log)
    assert [] == check.finish(now_us=START_US)


def test_bytes_in_the_spool_are_incomplete(log):
    """A segment nobody has drained, one drained to its end, and one with a header only."""
    log.append(calls(1), segment="drained")
    drained = log.positions[ref("drained")].offset
    for name, size in (("drained", drained), ("waiting", HEADER_BYTES + 9), ("fresh", HEADER_BYTES)):
        (log.home.spool_dir / f"{ref(name)}.seg").write_bytes(bytes(size))
    report = verify_home(log.home)

    assert [("undrained_spool", None)] == classes(report)
    assert f"9 bytes of segment {ref('waiting')}" in report.findings[0].detail


def test_reports_that_are_behind_are_compared_as_far_as_they_go(log):
    log.append(calls(3))
    log.project()
    log.append(calls(3, first=3))

    assert ("proven", []) == verdict_and_findings(log)


def test_reports_of_another_log_are_a_mismatch(log, tmp_path):
    other = Log(tmp_path / "other")
    other.append(calls(5))
    other.project()
    other.close()
    log.append(calls(1))
    log.home.reports_path.write_bytes(other.home.reports_path.read_bytes())

    assert "report_mismatch" in dict(verdict_and_findings(log)[1])


def test_many_findings_of_a_class_are_cut_and_counted(log):
    log.append([intent(call) for call in range(1_205)], minutes=120)
    report = verify_home(log.home)

    assert 1_001 == len(report.findings)
    assert "and 205 more of this class" == report.findings[-1].detail


def test_rows_that_somebody_made_do_not_stop_the_check_of_calls():
    """Nested without end, and a time that no float holds: the tree says that they were changed, this only goes on."""
    check = CallCheck()
    check.add(
        [
            (0, b'{"id":"a","kind":"call.intent","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            (1, b'{"at_us":-1%s,"id":"b","kind":"call.intent"}' % (b"0" * 400)),
        ]
    )

    assert [("open_intent", 1)] == [(one.kind, one.index) for one in check.finish(now_us=START_US)]


SUCCESSOR = {"at_us": 1, "former": "before", "id": "a", "kept_size": 4, "kind": "log.successor", "reason": "restored"}


@pytest.mark.parametrize(
    ("fields", "severity", "said"),
    [
        ({"signed_size": 4}, "info", "this log follows before (restored), of which 4 entries are kept"),
        ({"signed_size": 6, "lost_from": 4, "lost_until": 6}, "incomplete", "entries 4 to 5 were signed and are lost"),
        ({}, "incomplete", "what was signed after them is not known"),
        ({"signed_size": 4, "reason": "forked"}, "incomplete", "what was signed after them is not known"),
    ],
)
def test_a_successor_says_what_is_missing_of_the_log_before_it(fields, severity, said):
    """Only where that log is known to have ended where this one begins is nothing missing."""
    check = CallCheck()
    check.add([(0, msgspec.json.encode(SUCCESSOR | fields))])
    (found,) = check.finish(now_us=START_US)

    assert ("succession", 0, severity) == (found.kind, found.index, found.severity)
    assert found.detail.endswith(said)


def test_a_lost_head_file_is_a_loss_of_its_own_kind(log):
    """It is no record, and excuses no outcome that lacks its intent."""
    log.append([msgspec.structs.replace(loss("x"), reason="head"), outcome("stray")])
    report = verify_home(log.home)

    assert {("head_lost", 0), ("outcome_without_intent", 1)} == set(classes(report))
    assert "tampered" == report.verdict


def test_rows_that_are_no_entries_are_passed_over_in_the_second_look():
    check = CallCheck()
    rows = [(0, b"{"), (1, b'{"at_us":1,"id":"a","kind":"call.outcome","status":"success"}')]
    check.add(rows)

    assert check.suspects
    check.look_closer(rows, {})
    assert [("outcome_without_intent", 1)] == [(one.kind, one.index) for one in check.finish(now_us=START_US)]


def test_each_difference_between_positions_and_entries_is_said():
    """A position that nobody kept, one of nothing, and a waiting intent that is listed under another segment."""
    check = CallCheck()
    check.add(
        [
            (0, b'{"at_us":1,"id":"a","kind":"call.intent","writer":{"segment":"s","seq":0}}'),
            (1, b'{"at_us":1,"id":"b","kind":"call.intent","writer":{"segment":"s","seq":1}}'),
            (2, b'{"at_us":1,"id":"d","kind":"call.intent","writer":{"segment":"s","seq":2}}'),
        ]
    )
    empty = Position(segment="t", process="p", ordinal=0, offset=0, entries=1, last_seq=0, final=False)

    assert [
        "segment s has 3 entries and no position",
        "segment t: its position says 1 entries up to number 0, the log has 0 up to -1",
    ] == list(check.compare_positions({"t": empty}))
    assert [
        "call b is not in the list of waiting intents, and the entries say otherwise",
        "call c is in the list of waiting intents, and the entries say otherwise",
        "call a waits in segment s, the list says t",
    ] == list(check.compare_open_calls({"a": "t", "c": "s", "d": "s"}))


def test_a_report_is_told_in_the_shape_of_the_contract(log):
    log.append([*calls(1), outcome("stray")])
    report = verify_home(log.home)
    shape = report.as_json()

    assert 1 == report.exit_code
    assert [
        "verdict", "origin", "tree_size", "root", "checkpoint_time_us", "counts", "findings",
    ] == list(shape)  # fmt: skip
    assert ("tampered", *log.home.read_head()) == tuple(
        shape[name] for name in ("verdict", "origin", "tree_size", "root")
    )
    assert log.at_us // 1_000_000 * 1_000_000 == shape["checkpoint_time_us"]
    assert {"intents": 1, "outcomes": 2, "unknown": 0, "losses": 0} == shape["counts"]
    assert [
        {
            "class": "outcome_without_intent",
            "severity": "tampered",
            "index": 2,
            "detail": f"call {ref('stray')} has no intent before it",
        }
    ] == shape["findings"]


def test_a_report_that_cannot_tell_says_why(log):
    log.home.policy_path.unlink()
    shape = verify_home(log.home).as_json()

    assert ("cannot_tell", None, None) == (shape["verdict"], shape["root"], shape["checkpoint_time_us"])
    assert "policy" in shape["reason"]

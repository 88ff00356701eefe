"""The reports, held against a second computation that shares no code with the first."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import tempfile
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal, getcontext
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reports.histories import START_US, History, cost, intent, outcome, ref

from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.period import parse_period
from openrouter_audit.reports.questions import QUESTIONS, ask, percent_text

DAY_US = 86_400_000_000


def period(since=None, until=None, tz="UTC"):
    return parse_period(since, until, tz=tz, now_us=START_US)


def users_of(references):
    """Two references of one person, one of another; the rest were erased."""
    names = {ref("s0"): "ann", ref("s1"): "ann", ref("s2"): "bob"}
    return {reference: names[reference] for reference in references if reference in names}


def answer(history, name, **options):
    when = options.pop("period", period())
    with history.reports() as reports:
        return list(ask(name, reports, period=when, find_users=users_of, **options).rows)


a_call = st.fixed_dictionaries(
    {
        "at_us": st.integers(START_US - 400 * DAY_US, START_US + 400 * DAY_US),
        "model": st.sampled_from(["a/x", "b/y"]),
        "subject": st.sampled_from([None, ref("s0"), ref("s1"), ref("s2"), ref("s3")]),
        "status": st.sampled_from(["open", "success", "error", "timeout", "unknown"]),
        "generation": st.integers(0, 12),
        "said": st.sampled_from([None, "1e-7", "0.1", "0.0076509169000000005", "12345678901234567890.1"]),
        "billed": st.sampled_from(["nothing", None, "0.3", "7e-30", "0"]),
        "latency": st.none() | st.integers(0, 10**9),
        "tokens": st.none() | st.integers(0, 10**6),
    }
)


def entries_of(calls):
    for number, call in enumerate(calls):
        name = ref(f"call {number}")
        yield intent(name, at_us=call["at_us"], model=call["model"], subject=call["subject"])
        if call["status"] != "open":
            yield outcome(
                name,
                status=call["status"],
                generation_id=f"gen-{call['generation']}",
                model=call["model"],
                cost=call["said"],
                last_byte_us=call["latency"],
                prompt_tokens=call["tokens"],
            )
            if call["billed"] != "nothing":
                yield cost(name, call["billed"])


def naive(calls):
    """(call, price or None, is the price unknown, is it a duplicate), for calls that ended."""
    seen = set()
    for call in calls:
        if call["status"] == "open":
            continue
        duplicate = call["generation"] in seen
        seen.add(call["generation"])
        billed = None if call["billed"] in {"nothing", None} else call["billed"]
        price = billed or call["said"]
        yield call, None if duplicate else price, price is None and not duplicate, duplicate


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(a_call, max_size=25), zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]))
def test_every_report_agrees_with_a_naive_computation(calls, zone):
    """Sums as fractions, days by conversion of each instant, people by name."""
    with tempfile.TemporaryDirectory() as name:
        history = History(Path(name), entries_of(calls))
        days, spent, failed = defaultdict(list), defaultdict(list), defaultdict(list)
        for call, price, unknown, _ in naive(calls):
            moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=call["at_us"])
            days[moment.astimezone(ZoneInfo(zone)).date().isoformat(), call["model"]].append((price, unknown))
            person = users_of([call["subject"]]).get(call["subject"], call["subject"])
            spent[person].append((price, unknown))
            failed[call["model"]].append(call["status"] == "error")

        def money(group):
            return len(group), sum(Fraction(p) for p, _ in group if p is not None), sum(u for _, u in group)

        by_day = answer(history, "daily-cost", period=period(tz=zone))
        by_person = answer(history, "top-spenders", limit=100)
        by_model = answer(history, "errors")
        (everything,) = answer(history, "summary")
        history.journal.close()

    assert {group: money(prices) for group, prices in days.items()} == {
        (row["day"], row["model_used"]): (row["requests"], Fraction(row["cost"]), row["unknown_cost_requests"])
        for row in by_day
    }
    assert by_day == sorted(by_day, key=lambda row: (row["day"], Fraction(row["cost"])), reverse=True) or len(
        {(row["day"], row["cost"]) for row in by_day}
    ) < len(by_day)
    assert {person: money(prices) for person, prices in spent.items()} == {
        row["user_id"]: (row["requests"], Fraction(row["total_cost"]), row["unknown_cost_requests"])
        for row in by_person
    }
    costs = [Fraction(row["total_cost"]) for row in by_person]
    assert costs == sorted(costs, reverse=True)
    assert {model: (len(group), sum(group)) for model, group in failed.items()} == {
        row["model_requested"]: (row["total"], row["errors"]) for row in by_model
    }
    ended = list(naive(calls))
    times = [call["latency"] for call, *_ in ended if call["latency"] is not None]
    getcontext().prec = 60
    mean = Decimal(sum(times)) / Decimal(1000 * len(times)) if times else None
    assert everything == {
        "calls": len(ended),
        "success": sum(call["status"] == "success" for call, *_ in ended),
        "success_pct": percent_text(sum(call["status"] == "success" for call, *_ in ended), len(ended)),
        "prompt_tokens": sum(call["tokens"] or 0 for call, _, _, duplicate in ended if not duplicate),
        "completion_tokens": 0,
        "mean_latency_ms": None if mean is None else str(mean.quantize(Decimal("0.001"), rounding=ROUND_HALF_UP)),
        "cost": everything["cost"],
        "unknown_cost_requests": sum(unknown for _, _, unknown, _ in ended),
    }
    assert sum(Fraction(p) for _, p, _, _ in ended if p is not None) == Fraction(everything["cost"])


def test_rows_have_exactly_the_columns_of_the_contract(tmp_path):
    """Programs read these names."""
    history = History(tmp_path, [intent(ref(1)), outcome(ref(1), cost="1e-7")])

    assert [
        {"day": "2026-11-23", "model_used": "openai/gpt-4o", "requests": 1, "cost": "0.0000001"}
        | {"unknown_cost_requests": 0}
    ] == answer(history, "daily-cost")
    assert [{"model_requested": "openai/gpt-4o", "total": 1, "errors": 0, "error_pct": "0.0"}] == answer(
        history, "errors"
    )
    for name, columns in QUESTIONS.items():
        assert columns == tuple(answer(history, name)[0])


def test_sums_are_exact_to_the_last_digit(tmp_path):
    """As binary fractions 0.1 and 0.2 are 0.30000000000000004."""
    history = History(
        tmp_path,
        [
            fact
            for number, billed in enumerate(["0.1", "0.2", "0.0076509169000000005", "1e-20"])
            for fact in (intent(ref(number)), outcome(ref(number), generation_id=f"gen-{number}", cost=billed))
        ],
    )
    assert ["0.30765091690000000051"] == [row["cost"] for row in answer(history, "summary")]


def test_a_day_is_a_local_day_when_the_clock_changes(tmp_path):
    """Berlin, 2026-10-25, has 25 hours; 2026-03-29 has 23."""
    instants = {
        "2026-10-24T21:59:59.999999Z": "2026-10-24",
        "2026-10-24T22:00:00Z": "2026-10-25",
        "2026-10-25T22:59:59Z": "2026-10-25",
        "2026-10-25T23:00:00Z": "2026-10-26",
        "2026-03-28T23:00:00Z": "2026-03-29",
        "2026-03-29T21:59:59Z": "2026-03-29",
        "2026-03-29T22:00:00Z": "2026-03-30",
    }
    for number, (instant, day) in enumerate(instants.items()):
        at_us = parse_period(instant, None, tz="UTC", now_us=0).since_us
        folder = tmp_path / str(number)
        folder.mkdir()
        history = History(folder, [intent(ref(1), at_us=at_us), outcome(ref(1))])
        when = period(day, None, tz="Europe/Berlin")

        assert [day] == [row["day"] for row in answer(history, "daily-cost", period=when)]
        assert [] == answer(history, "daily-cost", period=period(None, day, tz="Europe/Berlin"))


def test_since_belongs_to_the_period_and_until_does_not(tmp_path):
    """Two months that meet count nothing twice."""
    history = History(tmp_path, [intent(ref(1)), outcome(ref(1))])
    instant, next_one = "2026-11-23T10:15:00.123456Z", "2026-11-23T10:15:00.123457Z"

    assert 1 == answer(history, "summary", period=period(instant, next_one))[0]["calls"]
    assert 0 == answer(history, "summary", period=period(None, instant))[0]["calls"]
    assert 0 == answer(history, "summary", period=period(next_one))[0]["calls"]


def test_an_empty_log_has_answers(tmp_path):
    """Nothing is divided by nothing."""
    history = History(tmp_path)

    assert [] == answer(history, "daily-cost") == answer(history, "errors") == answer(history, "top-spenders")
    (row,) = answer(history, "summary")
    assert (0, None, None, "0") == (row["calls"], row["success_pct"], row["mean_latency_ms"], row["cost"])


def test_limit_and_model(tmp_path):
    """Ten spenders unless told otherwise; a model by what was asked for or what served."""
    calls = [ref(f"call {number}") for number in range(12)]
    entries = []
    for number, call in enumerate(calls):
        entries.append(intent(call, subject=ref(f"p{number}"), model="a/x" if number else "b/y"))
        entries.append(outcome(call, model="c/z"))
    history = History(tmp_path, entries)

    assert 10 == len(answer(history, "top-spenders"))
    assert 3 == len(answer(history, "top-spenders", limit=3))
    assert 1 == answer(history, "summary", model="b/y")[0]["calls"]
    assert 12 == answer(history, "summary", model="c/z")[0]["calls"]
    with pytest.raises(ConfigError):
        answer(history, "top-spenders", limit=0)


def test_percent_rounds_half_up():
    """1 of 16 is 6.25, and becomes 6.3."""
    assert ("6.3", "33.3", "66.7", "100.0", "0.1") == tuple(
        percent_text(part, whole) for part, whole in [(1, 16), (1, 3), (2, 3), (5, 5), (1, 2000)]
    )


SEED_QUERIES = """
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
names = [row[1] for row in db.execute("PRAGMA table_info(audit_log)")]
assert names == ["id", "timestamp", "generation_id", "model_requested", "model_used", "prompt_tokens",
    "completion_tokens", "total_cost", "latency_ms", "status", "user_id", "prompt_hash", "error_code"], names
print(db.execute('''SELECT date(timestamp) as day, model_used,
       COUNT(*) as requests, SUM(total_cost) as cost
FROM audit_log GROUP BY day, model_used ORDER BY day DESC, cost DESC;''').fetchall())
print(db.execute('''SELECT model_requested, COUNT(*) as total,
       SUM(CASE WHEN status = 'error' THEN 1 ELSE 0 END) as errors,
       ROUND(100.0 * SUM(CASE WHEN status='error' THEN 1 ELSE 0 END) / COUNT(*), 1) as error_pct
FROM audit_log WHERE timestamp > datetime('now', '-1 day')
GROUP BY model_requested;''').fetchall())
print(db.execute('''SELECT user_id, COUNT(*) as requests, SUM(total_cost) as total_cost
FROM audit_log GROUP BY user_id ORDER BY total_cost DESC LIMIT 10;''').fetchall())
print(db.execute("SELECT timestamp, typeof(total_cost), typeof(latency_ms) FROM audit_log").fetchone())
"""


def test_queries_of_older_logs_run_unchanged(tmp_path):
    """Another program, with the system's own SQLite, asks the three questions; open calls are not in the view."""
    now_us = int(dt.datetime.now(dt.UTC).timestamp() * 1e6)
    old, new = ref("old"), ref("new")
    entries = [intent(old, at_us=START_US - 700 * DAY_US, subject=ref("s0")), outcome(old, cost="0.25")]
    entries += [intent(new, at_us=now_us - 3_600_000_000, subject=ref("s0"), model="b/y")]
    entries += [outcome(new, status="error", cost="0.5"), intent(ref("open"), at_us=now_us)]
    History(tmp_path, entries).reports().close()

    done = subprocess.run(
        [sys.executable, "-c", SEED_QUERIES, str(tmp_path / "reports.db")], capture_output=True, text=True, check=False
    )

    assert "" == done.stderr
    by_day, by_model, by_user, types = map(eval, done.stdout.splitlines())
    assert [(1, 0.5), (1, 0.25)] == [row[2:] for row in by_day]
    assert [("b/y", 1, 1, 100.0)] == by_model
    assert [(ref("s0"), 2, 0.75)] == by_user
    assert ("2024-12-23 10:15:00.123456", "real", "real") == types

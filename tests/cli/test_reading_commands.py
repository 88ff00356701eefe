"""The commands as programs: what is on stdout, what is on stderr, and the exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.reports.histories import cost, intent, outcome, ref

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.core.entries import AlertRaised, Claimed, Context, Decision, Facts, Private, ToolCall
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.reports.rows import COLUMNS
from openrouter_audit.testing import FakeOpenRouter

A, B = ref("a"), ref("b")
KEY = "sk-or-v1-" + "0123456789abcdef" * 4


def run(home: Path, *arguments: str, key: str | None = None, hosts: str | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENROUTER")}
    environment |= {} if key is None else {"OPENROUTER_API_KEY": key}
    environment |= {} if hosts is None else {"OPENROUTER_AUDIT_HOSTS": hosts}
    return subprocess.run(
        [sys.executable, "-m", "openrouter_audit", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


def answer(home: Path, *arguments: str) -> object:
    done = run(home, *arguments, "--format", "json")
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


def record(home: Path, *records: tuple[Facts, Private | None], sequencer: bool = False) -> None:
    with AuditLog.open(home, sequencer=sequencer, enrich=False) as audit:
        for facts, private in records:
            audit.write(facts, private)


def one_call(call: str = A, user: str = "=ann", **fields: object) -> list[tuple[Facts, Private | None]]:
    private = Private(user=user, reference=ref(user), session="s-1", tags={"team": "x"}, base_url="http://x/api/v1")
    return [(intent(call), private), (outcome(call, **({"cost": "1e-7"} | fields)), None)]


@pytest.fixture
def home(tmp_path) -> Path:
    record(tmp_path / "home", *one_call(), (cost(A, "0.0076509169000000005"), None))
    return tmp_path / "home"


def test_a_report_drains_what_was_spooled_before(home):
    """Nobody ran a sequencer until the question was asked."""
    found = answer(home, "report", "summary", "--since", "2026-01-01")

    assert ["report", "since", "until", "tz", "rows"] == list(found)
    assert ("summary", "2026-01-01T00:00:00.000000Z", None, "UTC") == tuple(list(found.values())[:4])
    assert ("0.0076509169000000005", "100.0", "812.345") == tuple(
        found["rows"][0][name] for name in ("cost", "success_pct", "mean_latency_ms")
    )


def test_top_spenders_are_people(home):
    """The name comes from the vault."""
    assert [("=ann", 1)] == [
        (row["user_id"], row["requests"]) for row in answer(home, "report", "top-spenders")["rows"]
    ]


def test_csv_is_for_spreadsheets(home):
    """The user id would be a formula."""
    done = run(home, "report", "top-spenders", "--format", "csv")

    assert "user_id,requests,total_cost,unknown_cost_requests\n'=ann,1,0.0076509169000000005,0\n" == done.stdout


@pytest.mark.parametrize("name", [A, A[:8], f"gen-{A[:20]}"])
def test_show_finds_a_call_by_id_beginning_or_generation(home, name):
    """The row, with names, and its entries as they stand in the log."""
    found = answer(home, "show", name)

    assert list(COLUMNS) == list(found["call"])
    assert (A, "=ann", "s-1", {"team": "x"}) == tuple(
        found["call"][column] for column in ("call_id", "user_id", "session_id", "tags")
    )
    assert ["call.intent", "call.outcome", "call.cost"] == [entry["kind"] for entry in found["entries"]]
    for entry in found["entries"]:
        assert A == entry["entry"]["id"]


def test_show_and_export_say_what_was_claimed_beside_what_was_attributed(tmp_path):
    """Ours wins in the row, and so in every report; where we said nothing the claim is there and marked."""
    home = tmp_path / "home"
    both = Context(
        claimed=Claimed(user="mallory", metadata={"ticket": "5"}, fills=("session_id",)),
        decision=Decision(rule="cheapest", arm="b"),
    )
    record(home, (intent(A), Private(user="alice", session="s-1", context=both)), (outcome(A), None))
    record(
        home, (intent(B), Private(user="bob", context=Context(claimed=Claimed(fills=("user_id",))))), (outcome(B), None)
    )

    found = answer(home, "show", A)
    assert ["call", "entries", "context"] == list(found)
    assert list(COLUMNS) == list(found["call"])
    assert ("alice", "s-1") == (found["call"]["user_id"], found["call"]["session_id"])
    expected = {
        "claimed": {"user": "mallory", "metadata": {"ticket": "5"}, "fills": ["session_id"]},
        "decision": {"rule": "cheapest", "arm": "b"},
    }
    assert expected == found["context"]
    page = run(home, "show", A).stdout.splitlines()
    lines = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in page if line and not line.startswith(("{", "entry"))
    }
    assert ("alice", "s-1  (claimed)", "mallory", "cheapest", '{"ticket":"5"}') == tuple(
        lines[name] for name in ("user_id", "session_id", "claimed.user", "decision.rule", "claimed.metadata")
    )
    assert "user_id               bob  (claimed)" in run(home, "show", B).stdout.splitlines()
    exported = [json.loads(line) for line in run(home, "export").stdout.splitlines()]
    assert {A: expected, B: {"claimed": {"fills": ["user_id"]}}} == {row["call_id"]: row["context"] for row in exported}
    assert {"alice", "bob"} == {row["user_id"] for row in answer(home, "report", "top-spenders")["rows"]}


def test_show_says_which_calls_the_results_belong_to(tmp_path):
    """The first call asked for a tool; the second brings its result, and one of which this log knows nothing."""
    home = tmp_path / "home"
    asked = outcome(A, tool_calls=(ToolCall(id="call_1", name="find", argument_bytes=2),))
    record(home, (intent(A), None), (asked, None))
    run(home, "tail")
    record(home, (intent(B, tool_results=("call_1", "call_x")), None), (outcome(B), None))

    expected = [{"tool_call_id": "call_1", "call_id": A}, {"tool_call_id": "call_x", "call_id": None}]
    assert expected == answer(home, "show", B)["answers"]
    assert "answers" not in answer(home, "show", A)
    page = run(home, "show", B).stdout
    assert f"answers tool call     call_1 of {A}" in page
    assert "answers tool call     call_x of no call in this log" in page

    assert "report_mismatch" not in run(home, "verify", "--format", "json").stdout
    with closing(sqlite3.connect(home / "reports.db")) as reports, reports:
        reports.execute("UPDATE tool_calls SET call_id = ?", (B,))
    assert "what no answer asked for" in run(home, "verify", "--format", "json").stdout


@pytest.mark.parametrize(("name", "code"), [("0" * 32, 65), ("gen-nobody", 65), ("", 64)])
def test_show_says_where_there_is_no_such_call(home, name, code):
    """Nothing on stdout, and not the wrong call."""
    done = run(home, "show", name)

    assert (code, "") == (done.returncode, done.stdout)
    assert done.stderr


def test_tail_shows_open_calls_too(home):
    """The newest last; the process that made it is still there."""
    run(home, "tail")  # commits the first call: of two writers that wait, either may be drained first
    with AuditLog.open(home, sequencer=False, enrich=False) as audit:
        audit.write(intent(B))
        found = answer(home, "tail")

    assert [(A, "success"), (B, "open")] == [(row["call_id"], row["status"]) for row in found]
    assert [(B, "unknown")] == [(row["call_id"], row["status"]) for row in answer(home, "tail", "-n", "1")]


def test_tail_follows_calls_as_they_end(home):
    """A line for each, as soon as it is in the log."""
    command = [
        sys.executable,
        "-m",
        "openrouter_audit",
        "--home",
        str(home),
        "tail",
        "-n1",
        "--follow",
        "--format=json",
    ]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert A == json.loads(follower.stdout.readline())["call_id"]
        record(home, *one_call(ref("c")), sequencer=True)
        record(home, *one_call(B))
        rows = [json.loads(follower.stdout.readline()) for _ in range(2)]
    finally:
        follower.terminate()
        follower.wait(timeout=10)
        follower.stdout.close()

    assert {ref("c"), B} == {row["call_id"] for row in rows}
    assert {"success"} == {row["status"] for row in rows}


def test_an_export_is_recorded_before_anything_is_shown(home):
    """P9: who, what, in which form, and up to where."""
    done = run(home, "export")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with SqliteJournal.open(home / "journal.db", read_only=True) as journal:
        (entry,) = [json.loads(text) for _, text in journal.entries() if "access.exported" in text]

    assert [A] == [row["call_id"] for row in rows]
    assert [list(COLUMNS)] == [list(row) for row in rows]
    assert (True, "1e-7") == (rows[0]["complete"], rows[0]["response_cost"])
    assert ("calls", "jsonl") == (entry["what"], entry["format"])
    assert entry["operator"] == entry["id"]


def test_export_as_csv_has_the_same_columns(home):
    """And the formula is disarmed there as well."""
    rows = list(csv.DictReader(io.StringIO(run(home, "export", "--format", "csv").stdout)))

    assert list(COLUMNS) == list(rows[0])
    assert ("'=ann", "true", '{"team":"x"}', "") == tuple(
        rows[0][name] for name in ("user_id", "complete", "tags", "purpose")
    )


def test_a_rebuilt_file_gives_the_same_bytes(home):
    """reports.db is deleted between two runs of everything that reads it."""
    questions = [("report", name, "--since", "2020-01-01", "--format", style)
                 for name in ("daily-cost", "errors", "top-spenders", "summary") for style in ("json", "csv", "table")]  # fmt: skip
    questions += [("export",), ("export", "--format", "csv"), ("tail", "--format", "json"), ("show", A)]
    before = [run(home, *question).stdout for question in questions[::3]]
    for path in home.glob("reports.db*"):
        path.unlink()

    assert before == [run(home, *question).stdout for question in questions[::3]]
    assert all(before)


def test_where_another_process_has_the_lease_what_waits_is_said(home):
    """It never commits here; the answer is the state before, and the exit is fine."""
    run(home, "tail")
    lease = Lease(Home.locate(home).lease_path)
    assert lease.acquire()
    try:
        record(home, *one_call(ref("c")))
        done = run(home, "report", "summary", "--format", "json")
    finally:
        lease.release()

    assert 0 == done.returncode
    assert "not yet committed" in done.stderr
    assert 1 == json.loads(done.stdout)["rows"][0]["calls"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("report",),
        ("report", "nope"),
        ("report", "summary", "--tz", "Europe/Atlantis"),
        ("report", "summary", "--since", "yesterday"),
        ("report", "summary", "--since", "2026-02-01", "--until", "2026-01-01"),
        ("report", "summary", "--limit", "0"),
        ("report", "summary", "--format", "xml"),
        ("tail", "-n", "-1"),
        ("export", "--format", "json"),
        ("import",),
    ],
)
def test_what_was_not_understood_exits_64(home, arguments):
    """One clear line or box on stderr, nothing on stdout, no traceback."""
    done = run(home, *arguments)

    assert (64, "") == (done.returncode, done.stdout)
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_reading_makes_no_home(tmp_path):
    """A mistyped --home is said, and leaves nothing behind."""
    done = run(tmp_path / "typo", "report", "summary")

    assert (69, "") == (done.returncode, done.stdout)
    assert not (tmp_path / "typo").exists()


def test_a_reader_that_has_enough_is_no_error(home):
    """`export | head -1`: quiet."""
    record(home, *[pair for number in range(600) for pair in one_call(ref(number))])
    command = f"'{sys.executable}' -m openrouter_audit --home '{home}' export | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)

    assert (0, "") == (done.returncode, done.stderr)
    assert 1 == len(done.stdout.splitlines())


def test_help_needs_no_library():
    """It is asked for often, and answers at once."""
    heavy = ("cyclopts", "rich", "apsw", "httpx", "httpx2")
    code = (
        "import sys; from openrouter_audit.cli import main; main(['--help']);"
        f" sys.exit(any(name in sys.modules for name in {heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "daily-cost" in done.stdout


def test_init_names_the_log_once(tmp_path):
    """A second init with another name changes nothing and says so."""
    first = run(tmp_path, "init", "--origin", "audit.example.com/gateway")
    again = run(tmp_path, "init", "--origin", "audit.example.com/other")

    assert "audit.example.com/gateway" in first.stdout
    assert (0, 69) == (first.returncode, again.returncode)


# An older log -------------------------------------------------------------------------------------------------


@pytest.fixture
def older(tmp_path) -> Path:
    connection = sqlite3.connect(tmp_path / "older.db")
    connection.execute(
        "CREATE TABLE audit_log (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT NOT NULL, generation_id TEXT UNIQUE"
        " NOT NULL, model_requested TEXT NOT NULL, model_used TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens"
        " INTEGER, total_cost REAL, latency_ms REAL, status TEXT NOT NULL, user_id TEXT, prompt_hash TEXT, error_code"
        " TEXT)"
    )
    rows = [
        ("2025-05-01T10:00:00.123456+00:00", "gen-1", "a/x", "a/x", 10, 5, 1e-7, 812.3, "success", "ann"),
        ("2025-05-02T10:00:00+02:00", "gen-2", "a/x", "a/x", 10, 5, 0.0, 1.0, "success", "ann"),
        ("2025-05-03T10:00:00", "gen-3", "a/x:free", "a/x:free", 10, 5, 0.0, 1.0, "success", None),
        ("2025-05-04T10:00:00+00:00", "gen-4", "a/x", "a/x", 10, 5, 0.5, 1.0, "weird", "ann"),
        ("long ago", "gen-5", "a/x", "a/x", 10, 5, 0.5, 1.0, "success", "ann"),
    ]
    connection.executemany(
        "INSERT INTO audit_log (timestamp, generation_id, model_requested, model_used, prompt_tokens,"
        " completion_tokens, total_cost, latency_ms, status, user_id) VALUES (?,?,?,?,?,?,?,?,?,?)",
        rows,
    )
    connection.commit()
    connection.close()
    return tmp_path / "older.db"


def test_an_older_log_is_taken_in_once(tmp_path, older):
    """Bad rows are named by number, the others are there; the second run adds nothing."""
    before = older.read_bytes()
    first = run(tmp_path / "home", "import", "--from-skill", str(older))
    again = run(tmp_path / "home", "import", "--from-skill", str(older))
    rows = answer(tmp_path / "home", "tail")

    assert (65, 65) == (first.returncode, again.returncode)
    assert "imported 3, already there 0, bad 2\n" == first.stdout
    assert "imported 0, already there 3, bad 2\n" == again.stdout
    assert "row 4: " in first.stderr
    assert "row 5: " in first.stderr
    assert before == older.read_bytes()
    assert [("1e-07", "settled"), (None, "unresolved"), ("0.0", "settled")] == [
        (row["total_cost"], row["cost_state"]) for row in rows
    ]
    assert ["ann", "ann", None] == [row["user_id"] for row in rows]
    assert "2025-05-02T08:00:00.000000Z" == rows[1]["timestamp"]


def test_a_generation_that_was_recorded_here_is_not_imported_again(tmp_path, older):
    """The older log ran beside this one for a while."""
    record(tmp_path / "home", *one_call(generation_id="gen-1"))
    done = run(tmp_path / "home", "import", "--from-skill", str(older))

    assert "imported 2, already there 1, bad 2\n" == done.stdout


@pytest.mark.parametrize("content", [b"", b"no database at all, whatever its name says" * 100])
def test_what_is_no_older_log_is_bad_data(tmp_path, content):
    """No home is made for it."""
    (tmp_path / "x.db").write_bytes(content)
    done = run(tmp_path / "home", "import", "--from-skill", str(tmp_path / "x.db"))

    assert 65 == done.returncode
    assert not (tmp_path / "home").exists()


# Costs and health ---------------------------------------------------------------------------------------------


def test_settle_asks_with_the_key_that_made_the_call(tmp_path):
    """A real call, recorded by a process that did not ask; the key comes from the environment and stays nowhere."""

    home = tmp_path / "home"
    with FakeOpenRouter(seed=1) as server:
        hosts = server.url.split("/")[2]
        with AuditLog.open(home, hosts=[hosts], enrich=False) as audit, audit.httpx2_client() as client:
            client.post(
                f"{server.url}/chat/completions",
                json={"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "x"}]},
                headers={"Authorization": f"Bearer {KEY}", "X-Emulator": "record_delay_ms=0"},
            )
        without = run(home, "settle", hosts=hosts)
        other = run(home, "settle", "--format", "json", key=KEY.replace("0", "1"), hosts=hosts)
        done = run(home, "settle", "--format", "json", key=f"sk-or-v1-other,{KEY}", hosts=hosts)
        (booked,) = server.calls()
    (row,) = answer(home, "tail")

    assert 69 == without.returncode
    assert 1 == json.loads(other.stdout)["no_key"]
    assert (1, 1) == tuple(json.loads(done.stdout)[name] for name in ("calls", "settled"))
    assert ("settled", "generation", booked["billed"]) == (row["cost_state"], row["cost_source"], row["total_cost"])
    for path in home.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_doctor_says_why_no_calls_were_seen(tmp_path):
    """No home; a home without calls; a call to a look-alike."""
    nowhere = run(tmp_path / "none", "doctor", "--format", "json")
    run(tmp_path / "home", "init")
    nothing = run(tmp_path / "home", "doctor", "--format", "json")

    assert (2, 2) == (nowhere.returncode, nothing.returncode)
    for done in (nowhere, nothing):
        assert any("no calls seen because" in problem for problem in json.loads(done.stdout)["problems"])
    assert "openrouter.ai" in json.loads(nothing.stdout)["watched_hosts"]
    assert not (tmp_path / "none").exists()


def test_doctor_says_what_each_rule_of_alerts_means(tmp_path):
    """Of a rule that a later recorder has, the name."""
    for number, rule in enumerate(("user_id_in_title", "user_id_in_title", "cost_mismatch", "something_new")):
        record(tmp_path / "home", (AlertRaised(v=1, id=ref(number), at_us=1, rule=rule, call=A), None))
    found = json.loads(run(tmp_path / "home", "doctor", "--format", "json").stdout)

    assert 4 == found["alerts"]
    (title,) = (each for each in found["problems"] if "in public" in each)
    (costs,) = (each for each in found["problems"] if "different costs" in each)
    assert ("2 alerts", "1 alerts") == (title[:8], costs[:8])
    assert "1 alerts: something_new" in found["problems"]


def test_doctor_is_content_with_a_healthy_home(tmp_path):
    """A priced call, nothing waiting, nothing lost."""
    record(tmp_path / "home", *one_call(), (cost(A, "1"), None))
    done = run(tmp_path / "home", "doctor", "--format", "json")
    found = json.loads(done.stdout)

    assert (0, []) == (done.returncode, found["problems"])
    assert (1, "2026-11-23T10:15:00.123456Z", 0, 0) == tuple(
        found[name] for name in ("calls", "last_call", "losses", "unsettled")
    )


def test_doctor_sees_calls_without_a_price(tmp_path):
    """They can be settled; somebody has to."""
    record(tmp_path / "home", *one_call(cost=None))
    done = run(tmp_path / "home", "doctor")

    assert 2 == done.returncode
    assert "settle" in done.stdout

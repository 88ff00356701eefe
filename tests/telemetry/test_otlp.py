"""From a call of a real client to a receiver that decodes the protobuf; and a receiver that is sick."""

import time

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from tests.journal.homes import KEY, check_log, of_kind, run_python
from tests.telemetry.receiver import Receiver, attributes

from openrouter_audit import AuditLog, attribution
from openrouter_audit.capture.context import context_of
from openrouter_audit.core.merkle import leaf_hash
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.testing import FakeOpenRouter

HEADERS = {"Authorization": f"Bearer {KEY}"}
BODY = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "canaryprompt"}], "max_tokens": 9}


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=5) as fake:
        yield fake


@pytest.fixture
def receiver(monkeypatch):
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-bot")
        monkeypatch.setenv("OPENROUTER_AUDIT_OTEL_ENABLED", "true")
        yield receiver


def opened(tmp_path, **options):
    return AuditLog.open(tmp_path / "home", **{"hosts": ["127.0.0.1"], "enrich": False} | options)


def ask(audit, openrouter, **headers):
    with audit.httpx2_client(headers=HEADERS | headers) as client:
        return client.post(f"{openrouter.url}/chat/completions", json=BODY)


def told(audit):
    """Wait until the emitter has had a step of its own over everything there is."""
    audit.flush(30)
    return audit._emitter.follow(60)


def test_each_finished_call_is_a_span_and_a_log_record(tmp_path, openrouter, receiver):
    """
    A success, a failure, and nothing of what was said; the records say the span, and where the proof is.
    """
    with opened(tmp_path) as audit, attribution(user="canaryuser", session="canarysession"):
        assert 200 == ask(audit, openrouter).status_code
        assert 429 == ask(audit, openrouter, **{"X-Emulator": "status=429"}).status_code
        assert told(audit)
        entries = check_log(audit.home)
        with SqliteJournal.open(audit.home.journal_path, read_only=True) as journal:
            texts = dict(journal.entries())
    intents, outcomes = of_kind(entries, "call.intent"), of_kind(entries, "call.outcome")
    assert 2 == len(receiver.spans) == len(receiver.records)
    for (resource, scope, span), (_, _, record), intent, outcome in zip(
        receiver.spans, receiver.records, intents, outcomes, strict=True
    ):
        said, index = attributes(span), entries.index(outcome)
        assert ("shop-bot", "openrouter-audit") == (attributes(resource)["service.name"], scope.name)
        assert (intent["group"], intent["id"][:16]) == (span.trace_id.hex(), span.span_id.hex())
        assert (Span.SPAN_KIND_CLIENT, "chat openai/gpt-4.1-mini", b"") == (span.kind, span.name, span.parent_span_id)
        assert intent["at_us"] * 1000 == span.start_time_unix_nano
        assert outcome["last_byte_us"] * 1000 == span.end_time_unix_nano - span.start_time_unix_nano
        assert (outcome["id"], index) == (said["openrouter_audit.entry.id"], said["openrouter_audit.log.index"])
        assert leaf_hash(texts[index].encode()).hex() == said["openrouter_audit.leaf.hash"]
        assert (span.trace_id, span.span_id) == (record.trace_id, record.span_id)
        assert "gen_ai.client.inference.operation.details" == record.event_name
        assert outcome["last_byte_us"] / 1000 == attributes(record).pop("duration_ms")
        assert said == {name: value for name, value in attributes(record).items() if name != "duration_ms"}
    good, bad = (attributes(span) for _, _, span in receiver.spans)
    assert (outcomes[0]["cost"], outcomes[0]["prompt_tokens"], 9, "openrouter") == tuple(
        good[name]
        for name in (
            "openrouter.cost.credits", "gen_ai.usage.input_tokens", "gen_ai.request.max_tokens", "gen_ai.provider.name",
        )
    )  # fmt: skip
    assert "error.type" not in good
    assert (429, outcomes[1]["error_code"]) == (bad["http.response.status_code"], bad["error.type"])
    assert [Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR] == [span.status.code for _, _, span in receiver.spans]
    assert [(9, "INFO"), (17, "ERROR")] == [(r.severity_number, r.severity_text) for _, _, r in receiver.records]
    assert "canary" not in repr(receiver.spans) + repr(receiver.records)


def test_people_are_told_where_an_option_says_so_and_the_names_are_pinned(tmp_path, openrouter, receiver, monkeypatch):
    monkeypatch.setenv("OPENROUTER_AUDIT_OTEL_USER_IDS", "true")
    monkeypatch.setenv("OPENROUTER_AUDIT_OTEL_SCHEMA", "1.36")
    with opened(tmp_path) as audit, attribution(user="alice", session="s-1"):
        ask(audit, openrouter)
        assert told(audit)
    ((_, _, span),) = receiver.spans
    said = attributes(span)
    assert ("alice", "s-1", "openrouter") == (said["user.id"], said["gen_ai.conversation.id"], said["gen_ai.system"])


def test_a_call_inside_a_span_of_the_application_is_its_child(tmp_path, openrouter, receiver):
    """
    The application's own provider and exporters are not touched.
    """
    provider = TracerProvider(shutdown_on_exit=False)
    with opened(tmp_path) as audit:
        with provider.get_tracer("app").start_as_current_span("work") as around:
            ask(audit, openrouter)
        ask(audit, openrouter)
        assert told(audit)
    context = around.get_span_context()
    (_, _, child), (_, _, alone) = receiver.spans
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (child.trace_id.hex(), child.parent_span_id.hex())
    assert b"" == alone.parent_span_id
    assert alone.trace_id != child.trace_id
    provider.shutdown()


def test_a_receiver_that_hangs_holds_up_no_call_no_flush_and_no_ending(tmp_path, openrouter, receiver):
    """
    It answers nothing while calls are made, committed and reported, and the log is closed; it hears of them afterwards.
    """
    receiver.goes_on.clear()
    with opened(tmp_path) as audit:
        ask(audit, openrouter)
        audit.flush(30)
        assert receiver.asked.wait(60)
        for _ in range(3):
            assert 200 == ask(audit, openrouter).status_code
        audit.flush(30)
        assert [] == receiver.spans
    receiver.goes_on.set()
    with opened(tmp_path) as audit:
        assert told_in_the_end(audit)
        ids = {entry["id"] for entry in of_kind(check_log(audit.home), "call.outcome")}
    assert 4 == len(ids)
    assert ids == {attributes(span)["openrouter_audit.entry.id"] for _, _, span in receiver.spans}
    assert ids == {attributes(record)["openrouter_audit.entry.id"] for _, _, record in receiver.records}


def told_in_the_end(audit):
    """The one before may still be at its last request, with the lease."""
    audit._start_workers()
    deadline = time.monotonic() + 60
    while not (audit._emitter.follow(60) and audit._emitter.tree_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("refused", ["/v1/traces", "/v1/logs"])
def test_what_was_refused_goes_again_and_what_was_taken_does_not(tmp_path, openrouter, receiver, refused):
    """
    The collector takes one of the two and answers 400 to the other; later it takes both.
    """
    receiver.status[refused] = 400
    with opened(tmp_path) as audit:
        ask(audit, openrouter)
        audit.flush(30)
        assert receiver.asked.wait(60)
        assert not audit._emitter.follow(1)
        receiver.status[refused] = 200
        assert audit._emitter.follow(60)
    assert 1 == len(receiver.spans) == len(receiver.records)


@pytest.mark.parametrize(
    ("name", "value", "spans", "records"),
    [("OTEL_TRACES_EXPORTER", "none", 0, 1), ("OTEL_LOGS_EXPORTER", "none", 1, 0), ("OTEL_SDK_DISABLED", "true", 0, 0)],
)
def test_one_of_the_two_can_be_left_out_or_both(
    tmp_path, openrouter, receiver, monkeypatch, name, value, spans, records
):
    monkeypatch.setenv(name, value)
    with opened(tmp_path) as audit:
        ask(audit, openrouter)
        assert told(audit)
    assert (spans, records) == (len(receiver.spans), len(receiver.records))


@pytest.mark.parametrize("how", ["setting", "argument"])
def test_nothing_is_told_unless_it_is_switched_on(tmp_path, openrouter, receiver, monkeypatch, how):
    if how == "setting":
        monkeypatch.delenv("OPENROUTER_AUDIT_OTEL_ENABLED")
    with opened(tmp_path, telemetry=how == "setting") as audit:
        ask(audit, openrouter)
        audit.flush(30)
        assert None is audit._emitter
    assert 0 == receiver.requests


def test_recording_imports_nothing_of_opentelemetry(tmp_path, openrouter):
    """
    Not even where it is installed: only who has imported it has spans.
    """
    done = run_python(
        """
import sys, httpx2
from openrouter_audit import AuditLog
with AuditLog.open(sys.argv[1], hosts=["127.0.0.1"], enrich=False) as audit:
    audit.httpx2_client(headers={"Authorization": "Bearer x"}).post(sys.argv[2] + "/chat/completions", json={"model": "a/b"})
    audit.flush(30)
print([name for name in sys.modules if name.startswith("opentelemetry")])
""",
        tmp_path / "home",
        openrouter.url,
    )
    assert "[]" == done.stdout.strip()


def test_without_the_extra_it_is_said_and_calls_are_recorded(tmp_path, openrouter):
    done = run_python(
        """
import logging, sys, httpx2
logging.basicConfig(level=logging.WARNING)
sys.modules["opentelemetry"] = None
from openrouter_audit import AuditLog
import os
os.environ["OPENROUTER_AUDIT_OTEL_ENABLED"] = "true"
with AuditLog.open(sys.argv[1], hosts=["127.0.0.1"], enrich=False) as audit:
    audit.httpx2_client(headers={"Authorization": "Bearer x"}).post(sys.argv[2] + "/chat/completions", json={"model": "a/b"})
    print(audit.flush(30))
    audit._emitter.follow(5)
""",
        tmp_path / "home",
        openrouter.url,
    )
    assert "4" == done.stdout.strip()
    assert "openrouter-audit[otel]" in done.stderr
    assert 1 == done.stderr.count("TelemetryUnavailable")


class Strange(trace.NonRecordingSpan):
    def get_span_context(self):
        raise RuntimeError("a span of somebody's own")


def test_a_span_that_is_none_or_breaks_is_no_context():
    nothing = {"user": None, "session": None, "claims": {}}
    assert None is context_of({}, None, **nothing)
    for span in (trace.INVALID_SPAN, Strange(trace.INVALID_SPAN_CONTEXT)):
        with trace.use_span(span):
            assert None is context_of({}, None, **nothing)

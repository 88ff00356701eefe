"""The older function, kept: twelve fields a call, and the failures it used to lose."""

import dataclasses
from decimal import Decimal

import openai
import pytest
from tests.journal.homes import KEY, check_log, of_kind

import openrouter_audit
from openrouter_audit import AuditEntry, Receipt, audited_completion
from openrouter_audit.errors import ConfigError, KeyMissing
from openrouter_audit.testing import FakeOpenRouter

MESSAGES = [{"role": "user", "content": "hello"}]
MODEL = "openai/gpt-4.1-mini"


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=3) as fake:
        yield fake


@pytest.fixture
def audit(tmp_path):
    installed = openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
    yield installed
    openrouter_audit.uninstall()


@pytest.fixture
def client(openrouter, audit):
    with openai.OpenAI(base_url=openrouter.url, api_key=KEY, max_retries=0) as made:
        yield made


def test_a_completion_comes_with_its_twelve_fields(openrouter, client):
    response, entry = audited_completion(MESSAGES, MODEL, "bob", client=client, max_tokens=50)
    booked = openrouter.calls()[-1]

    assert isinstance(entry, AuditEntry)
    assert [
        "timestamp", "generation_id", "model_requested", "model_used", "prompt_tokens", "completion_tokens",
        "total_cost", "latency_ms", "status", "user_id", "prompt_hash", "error_code",
    ] == [field.name for field in dataclasses.fields(entry)]  # fmt: skip
    assert response.id == entry.generation_id == booked["generation_id"]
    assert (MODEL, booked["model"]) == (entry.model_requested, entry.model_used)
    assert (booked["prompt_tokens"], booked["completion_tokens"]) == (entry.prompt_tokens, entry.completion_tokens)
    assert Decimal(booked["billed"]) == entry.total_cost
    assert ("success", "bob", None) == (entry.status, entry.user_id, entry.error_code)
    assert entry.latency_ms > 0
    assert 64 == len(entry.prompt_hash or "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.status = "error"


def test_a_failed_completion_raises_what_the_client_raises_and_is_recorded(audit, client):
    with pytest.raises(openai.InternalServerError):
        audited_completion(MESSAGES, MODEL, "bob", client=client, extra_headers={"X-Emulator": "status=502"})
    audit.flush()
    (outcome,) = of_kind(check_log(audit.home), "call.outcome")

    assert ("error", 502, "502") == (outcome["status"], outcome["http_status"], outcome["error_code"])


def test_a_stream_comes_with_a_receipt_that_fills(audit, client):
    stream, receipt = audited_completion(MESSAGES, MODEL, client=client, stream=True)
    assert isinstance(receipt, Receipt)
    assert receipt.status is None
    list(stream)
    assert ("success", None) == (receipt.status, receipt.entry_index)
    assert receipt.generation_id is not None
    audit.flush()
    entries = check_log(audit.home)

    assert receipt.entry_index is not None
    assert entries[receipt.entry_index]["generation_id"] == receipt.generation_id


def test_a_host_that_is_not_watched_is_refused_before_anything_is_sent(openrouter, audit):
    before = len(openrouter.calls())
    url = openrouter.url.replace("127.0.0.1", "localhost")
    with openai.OpenAI(base_url=url, api_key=KEY) as elsewhere, pytest.raises(ConfigError) as refused:
        audited_completion(MESSAGES, MODEL, client=elsewhere)

    assert "capture.hosts" == refused.value.setting
    assert before == len(openrouter.calls())


def test_without_client_and_key_nothing_is_sent(audit, monkeypatch):
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(KeyMissing):
        audited_completion(MESSAGES)


def test_it_installs_by_itself(tmp_path, openrouter, monkeypatch):
    monkeypatch.setenv("OPENROUTER_AUDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENROUTER_AUDIT_HOSTS", "127.0.0.1")
    with openai.OpenAI(base_url=openrouter.url, api_key=KEY) as client:
        try:
            _, entry = audited_completion(MESSAGES, MODEL, client=client)
        finally:
            openrouter_audit.uninstall()

    assert isinstance(entry, AuditEntry)
    assert ("success", "system") == (entry.status, entry.user_id)

"""
P2: "Once. `kill -9` at any instant loses no acknowledged record and doubles none. One `send` of an HTTP client is one call;
an SDK's retries are several, grouped."

The first sentence has its own file: tests/campaign/test_kills.py.
"""

import openai
import pytest
from tests.journal.homes import KEY, check_log, of_kind

from openrouter_audit import AuditLog
from openrouter_audit.testing import FakeOpenRouter

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=2) as fake:
        yield fake


def test_retries_of_an_sdk_are_attempts_of_one_group(tmp_path, openrouter):
    audit = AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], enrich=False)
    with audit.httpx2_client() as client:
        sdk = openai.OpenAI(base_url=openrouter.url, api_key=KEY, http_client=client, max_retries=2)
        sdk.chat.completions.create(
            model="openai/gpt-4.1-mini",
            messages=MESSAGES,
            extra_headers={"X-Emulator": "status=500;times=2;retry_after=0"},
        )
        sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=MESSAGES)
    audit.flush()
    audit.close()
    entries = check_log(audit.home)
    intents = of_kind(entries, "call.intent")

    assert [1, 2, 3, 1] == [intent["attempt"] for intent in intents]
    assert [0, 0, 0, 1] == [[*dict.fromkeys(i["group"] for i in intents)].index(intent["group"]) for intent in intents]
    assert ["error", "error", "success", "success"] == [e["status"] for e in of_kind(entries, "call.outcome")]
    assert [500, 500, 200, 200] == [e["http_status"] for e in of_kind(entries, "call.outcome")]


def test_a_restart_doubles_nothing(tmp_path, openrouter):
    """
    Record, flush, close, open again, record: every request the server answered is one call of the log.
    """
    before = len(openrouter.calls())
    for _ in range(3):
        audit = AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], enrich=False)
        with audit.httpx2_client() as client:
            sdk = openai.OpenAI(base_url=openrouter.url, api_key=KEY, http_client=client)
            sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=MESSAGES)
            list(sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=MESSAGES, stream=True))
        audit.close()
    books = [call["generation_id"] for call in openrouter.calls()[before:]]
    ours = [outcome["generation_id"] for outcome in of_kind(check_log(audit.home), "call.outcome")]

    assert 6 == len(books)
    assert books == ours

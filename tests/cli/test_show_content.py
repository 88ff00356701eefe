"""`show --content`: what is kept of bodies, to whom it is shown and why (P9), from calls of a real SDK."""

import json
import logging

import openai
import pytest
from tests.cli.test_reading_commands import run

import openrouter_audit
from openrouter_audit.errors import ContentBlocked, ExtraMissing
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.testing import FakeOpenRouter

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
QUESTION = "Write to jane.doe@example.com about \x1b[31mred"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A home whose settings keep redacted bodies, and its calls in order: plain, streamed, one of somebody kept out."""
    home = tmp_path_factory.mktemp("kept") / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(
        '[content]\nmode = "redacted"\nrules = [{user = "u-2", mode = "none"}]\n[enrich]\nscope = "off"\n'
    )
    with FakeOpenRouter(seed=1) as fake, openrouter_audit.AuditLog.open(home, hosts=["127.0.0.1"]) as audit:
        with openai.OpenAI(base_url=fake.url, api_key=KEY, http_client=audit.httpx2_client()) as sdk:
            asked = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": QUESTION}]}
            plain = sdk.chat.completions.create(**asked)
            said = "".join(each.choices[0].delta.content or "" for each in sdk.chat.completions.create(**asked, stream=True) if each.choices)  # fmt: skip
            with openrouter_audit.attribution(user="u-2"):
                sdk.chat.completions.create(**asked)
        audit.flush()
    rows = [json.loads(line) for line in run(home, "export").stdout.splitlines()]
    return home, rows, plain.choices[0].message.content, said


def accesses(home):
    with SqliteJournal.open(Home.locate(home).journal_path, read_only=True) as journal:
        return [json.loads(text) for _, text in journal.entries() if '"access.content"' in text]


def test_content_is_shown_with_a_reason_and_recorded_first(kept):
    home, rows, said, _ = kept
    before = len(accesses(home))
    done = run(home, "show", rows[0]["call_id"], "--content", "--reason", "ticket 17", "--format", "json")
    content = json.loads(done.stdout)["content"]

    assert ["request", "answer"] == list(content)
    request = json.loads(content["request"]["text"])
    assert "Write to [EMAIL] about" in request["messages"][0]["content"]
    assert said == json.loads(content["answer"]["text"])["choices"][0]["message"]["content"]
    assert {"mode": "redacted", "bytes": len(content["answer"]["text"].encode())}.items() <= content["answer"].items()
    entry = accesses(home)[before]
    assert (rows[0]["call_id"], entry["id"], entry["id"]) == (entry["call"], entry["operator"], entry["reason"])
    with Vault.open(Home.locate(home).vault_path, read_only=True) as vault:
        assert "ticket 17" == vault.notes(entry["id"])["reason"]
    assert "ticket" not in json.dumps(entry)
    assert 0 == run(home, "verify").returncode


def test_a_stream_is_shown_as_the_answer_it_was(kept):
    home, rows, _, said = kept
    done = run(home, "show", rows[1]["call_id"], "--content", "--reason", "r", "--format", "json")
    answer = json.loads(json.loads(done.stdout)["content"]["answer"]["text"])

    assert said == answer["choices"][0]["message"]["content"]
    assert "usage" in answer


def test_a_page_with_content_steers_no_terminal(kept):
    home, rows, _, _ = kept
    done = run(home, "show", rows[0]["call_id"], "--content", "--reason", "r")

    assert "request (redacted, " in done.stdout
    assert "[EMAIL]" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_call_that_a_rule_keeps_out_has_none(kept):
    home, rows, _, _ = kept
    done = run(home, "show", rows[2]["call_id"], "--content", "--reason", "r")

    assert "no content is kept of this call" in done.stdout
    intent = json.loads(run(home, "show", rows[2]["call_id"], "--format", "json").stdout)["entries"][0]["entry"]
    assert "content_mode" not in intent


@pytest.mark.parametrize(
    "arguments",
    [("--content",), ("--content", "--reason", " "), ("--reason", "r"), ("--content", "--reason", "r", "--format", "csv")],
)  # fmt: skip
def test_content_is_not_shown_without_a_reason(kept, arguments):
    home, rows, _, _ = kept
    before = len(accesses(home))
    done = run(home, "show", rows[0]["call_id"], *arguments)

    assert done.returncode
    assert "[EMAIL]" not in done.stdout
    assert before == len(accesses(home))


def test_content_is_not_shown_where_that_cannot_be_recorded(kept, monkeypatch, capsys):
    """
    P9: first the record, then the content; no record, no content.
    """
    from openrouter_audit.cli.show import show
    from openrouter_audit.errors import AuditUnavailable

    def refuses(*_, **__):
        raise AuditUnavailable("the spool is full", reason="full")

    home, rows, _, _ = kept
    real = openrouter_audit.AuditLog.__init__

    def opened(self, *arguments, **options):
        real(self, *arguments, **options)
        self.write = refuses

    monkeypatch.setattr(openrouter_audit.AuditLog, "__init__", opened)
    with pytest.raises(AuditUnavailable):
        show(rows[0]["call_id"], content=True, reason="r", home=home)
    assert "[EMAIL]" not in capsys.readouterr().out


def test_without_content_the_page_is_as_ever(kept):
    home, rows, _, _ = kept
    before = len(accesses(home))
    found = json.loads(run(home, "show", rows[0]["call_id"], "--format", "json").stdout)

    assert "content" not in found
    assert [{"kind": "EMAIL", "count": 1}] == found["entries"][0]["entry"]["findings"]
    assert "redacted" == found["entries"][0]["entry"]["content_mode"]
    assert before == len(accesses(home))


def test_a_refused_request_is_a_call_in_every_report(tmp_path, caplog):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[redact]\naction = "block"\n')
    with caplog.at_level(logging.INFO), FakeOpenRouter(seed=1) as fake:
        with openrouter_audit.AuditLog.open(home, hosts=["127.0.0.1"]) as audit:
            sdk = openai.OpenAI(base_url=fake.url, api_key=KEY, http_client=audit.httpx2_client())
            with sdk, pytest.raises(ContentBlocked):
                sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
            audit.flush()
        assert not fake.calls()
    (row,) = [json.loads(line) for line in run(home, "export").stdout.splitlines()]

    assert ("refused", "ContentBlocked") == (row["status"], row["error_code"])
    assert "jane" not in caplog.text


def test_a_missing_extra_is_said_when_recording_begins(tmp_path, monkeypatch):
    from openrouter_audit.core import redaction

    def missing(*_):
        raise ExtraMissing(extra="redaction", library="google-re2")

    monkeypatch.setattr(redaction, "redact", missing)
    monkeypatch.setenv("OPENROUTER_AUDIT_CONTENT_MODE", "redacted")
    with pytest.raises(ExtraMissing):
        openrouter_audit.AuditLog.open(tmp_path / "home")


def test_what_was_left_out_of_a_body_is_said(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[content]\nmode = "full"\nmax_bytes = 1024\n[enrich]\nscope = "off"\n')
    with FakeOpenRouter(seed=1) as fake, openrouter_audit.AuditLog.open(home, hosts=["127.0.0.1"]) as audit:
        with openai.OpenAI(base_url=fake.url, api_key=KEY, http_client=audit.httpx2_client()) as sdk:
            answered = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "a" * 3_000}])
        audit.flush()
    shown = ("show", answered.id, "--content", "--reason", "r")
    request = json.loads(run(home, *shown, "--format", "json").stdout)["content"]["request"]

    assert ("size", "full") == (request["cut"], request["mode"])
    assert len(request["text"].encode()) <= 1024
    assert request["bytes"] > 3_000
    assert ", both ends)" in run(home, *shown).stdout

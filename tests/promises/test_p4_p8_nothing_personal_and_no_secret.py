"""
P4: "Nothing personal in the tree. People, sessions, tags, free text and bodies live outside it."
P8: "No secret at rest. Not an API key, not an Authorization header, in no row, spool, log line, exception text, export or
core of ours."

A canary for each: real SDK calls carry them, and then every byte that we left behind is searched, also for their base64,
hex and UTF-16 forms.
"""
# ruff: noqa: UP031 - JSON is full of braces

import base64
import logging
import re
import signal
import subprocess
import traceback

import openai
import pytest
from tests.journal.homes import check_log, of_kind, run_python
from tests.promises.servers import STREAM_HEAD, RawServer, whole

import openrouter_audit
from openrouter_audit.testing import FakeOpenRouter

CANARIES = {
    "key": "sk-or-v1-" + "fedcba9876543210" * 4,
    "prompt": "canaryprompt-the-patient-has",
    "answer": "canaryanswer-take-two-of-these",
    "error": "canaryerror-flagged-input-text",
    "user": "canaryuser-alice@example.org",
    "session": "canarysession-1234",
    "tenant": "canarytenant-acme",
    "purpose": "canarypurpose-triage",
    "tag": "canarytag-cost-centre",
    "tool": "canarytooltext-look-up-the-patient",
    "claimed": "canaryclaimed-mallory@example.org",
    "metadata": "canarymetadata-ticket-5",
    "trace": "canarytrace-nightly-run",
    "safety": "canarysafety-0f3e",
    "traceparent": "00-ca9a41ca9a41ca9a41ca9a41ca9a4100-ca9a41ca9a4100aa-01",
    "decision": "canarydecision-cheapest-first",
    "title": "canarytitle-shop-of-bob@example.org",
    "referer": "https://canaryreferer.example.org/for/bob",
}
IN_VAULT = {
    "user", "session", "tenant", "purpose", "tag", "claimed", "metadata", "trace", "safety", "traceparent", "decision", "title", "referer",
}  # fmt: skip


def forms(canary):
    data = canary.encode()
    yield from (data, data.hex().encode(), data.hex().upper().encode(), canary.encode("utf-16-le"), data[::-1])
    for shift in range(3):  # base64 of it at any place of a longer text
        yield base64.b64encode(bytes(shift) + data)[4:-4]
        yield base64.urlsafe_b64encode(bytes(shift) + data)[4:-4]


def found_in(data, names=CANARIES):
    return {name for name in names if any(form in data for form in forms(CANARIES[name]))}


def files_below(path, copy):
    """
    Name and content of each file, read from a copy that another process made: to open and close a database's file here
    would drop the locks of this process on it.
    """
    subprocess.run(["cp", "-R", str(path), str(copy)], check=True)
    return {each.relative_to(copy).as_posix(): each.read_bytes() for each in copy.rglob("*") if each.is_file()}


def answer(head, body):
    if b"fail" in body:
        yield whole(
            '{"error":{"code":403,"message":"%(error)s","metadata":{"flagged_input":"%(prompt)s","raw":"%(key)s"}}}'
            % CANARIES,
            status="403 Forbidden",
        )
    elif b'"stream":true' in body.replace(b" ", b""):
        yield STREAM_HEAD
        for piece in (CANARIES["answer"][:9], CANARIES["answer"], CANARIES["answer"][9:]):
            yield (
                b'data: {"id":"gen-2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
                % piece.encode()
            )
        yield b"data: [DONE]\n\n"
    elif b"cut" in body:
        yield whole('{"id":"gen-3","choices":[{"message":{"content":"%(answer)s' % CANARIES)
    else:
        yield whole(
            '{"id":"gen-1","object":"chat.completion","created":1,"model":"m","provider":"%(answer)s and more ;;","choices":[{"index":0,'
            '"finish_reason":"stop","message":{"role":"assistant","content":"%(answer)s","tool_calls":null}}],'
            '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"cost":1e-7}}' % CANARIES
        )


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """Files, log lines and exception texts after calls of every kind."""
    home = tmp_path_factory.mktemp("canary") / "home"
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler, root = Keep(), logging.getLogger("openrouter_audit")
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    texts = []
    content = CANARIES["prompt"]
    tools = [{"type": "function", "function": {"name": "lookup", "description": CANARIES["tool"], "parameters": {}}}]
    with RawServer(answer) as server:
        audit = openrouter_audit.install(home, hosts=["127.0.0.1"])
        try:
            sdk = openai.OpenAI(base_url=server.url, api_key=CANARIES["key"], max_retries=0)
            with openrouter_audit.attribution(
                user=CANARIES["user"],
                session=CANARIES["session"],
                tenant=CANARIES["tenant"],
                purpose=CANARIES["purpose"],
                tags={"k": CANARIES["tag"], CANARIES["tag"]: "v"},
                decision={"rule": CANARIES["decision"]},
            ):
                for said in (content, "fail " + content, "cut " + content):
                    for stream in (False, True):
                        try:
                            done = sdk.chat.completions.create(
                                model="openai/gpt-4.1-mini",
                                messages=[{"role": "user", "content": said}],
                                tools=tools,
                                stream=stream,
                                user=CANARIES["claimed"],
                                extra_body={
                                    "session_id": CANARIES["session"],
                                    "metadata": {"k": CANARIES["metadata"], CANARIES["metadata"]: "v"},
                                    "trace": {"trace_name": CANARIES["trace"]},
                                    "safety_identifier": CANARIES["safety"],
                                },
                                extra_headers={
                                    "traceparent": CANARIES["traceparent"],
                                    "X-Title": CANARIES["title"],
                                    "HTTP-Referer": CANARIES["referer"],
                                },
                            )
                            if stream:
                                list(done)
                        except (openai.OpenAIError, ValueError):
                            pass
                with openai.OpenAI(
                    base_url="http://127.0.0.1:1/api/v1", api_key=CANARIES["key"], max_retries=0
                ) as nowhere:
                    try:  # a key where a model's name should be
                        nowhere.chat.completions.create(
                            model=CANARIES["key"], messages=[{"role": "user", "content": content}]
                        )
                    except openai.OpenAIError:
                        pass
            live = files_below(home, home.parent / "live")
            audit.flush()
            sdk.close()
        finally:
            openrouter_audit.uninstall()
        refused = openai.OpenAI(
            base_url=server.url, api_key=CANARIES["key"], max_retries=0, http_client=audit.httpx2_client()
        )
        try:
            refused.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
        except Exception:
            texts.append(traceback.format_exc(chain=True))
        refused.close()
        root.removeHandler(handler)
        root.setLevel(level)
    return home, live, files_below(home, home.parent / "afterwards"), "\n".join(lines), texts


def test_the_search_finds_a_canary_in_every_form_it_looks_for():
    """
    The test can fail: hidden in longer text, in each form.
    """
    canary = CANARIES["prompt"]
    longer = f"xy{canary}zz"
    for data in (
        longer.encode(),
        base64.b64encode(longer.encode()),
        longer.encode().hex().encode(),
        longer.encode("utf-16-le"),
    ):
        assert {"prompt"} == found_in(data)


def test_calls_of_every_kind_are_in_the_log(left_behind):
    from openrouter_audit.journal.home import Home

    entries = check_log(Home(left_behind[0]))
    assert 7 <= len(of_kind(entries, "call.intent"))
    assert {"success", "error"} <= {entry["status"] for entry in of_kind(entries, "call.outcome")}
    assert all("subject" in intent for intent in of_kind(entries, "call.intent"))


def test_no_key_no_prompt_and_no_answer_is_in_any_file(left_behind):
    _, live, files, _, _ = left_behind
    for when, each in (("while recording", live), ("afterwards", files)):
        for name, data in each.items():
            assert set() == found_in(data, set(CANARIES) - IN_VAULT), f"{name} {when}"


def test_people_are_in_the_vault_and_nowhere_else(left_behind):
    _, live, files, _, _ = left_behind
    vault = b"".join(data for name, data in files.items() if name.startswith("vault.db"))
    assert IN_VAULT == found_in(vault, IN_VAULT)
    for each in (live, files):
        for name, data in each.items():
            if not name.startswith("vault.db"):
                assert set() == found_in(data, IN_VAULT), name


def test_log_lines_show_nobody_and_no_secret(left_behind):
    lines = left_behind[3]
    assert 7 <= len(re.findall('"call_id"', lines))
    assert set() == found_in(lines.encode())


def test_exception_texts_of_ours_hold_no_secret(left_behind):
    (text,) = left_behind[4]
    ours = "\n".join(line for line in text.splitlines() if "AuditUnavailable" in line or "SpoolError" in line)
    assert "closed" in ours
    assert set() == found_in(ours.encode())


def test_a_killed_process_leaves_a_spool_without_them(tmp_path):
    """
    `kill -9` before anything is sequenced: what is found is sealed.
    """
    with FakeOpenRouter(seed=1) as fake:
        run_python(
            f"""
import os, signal, sys, openai, openrouter_audit
audit = openrouter_audit.AuditLog.open(sys.argv[1], hosts=["127.0.0.1"], sequencer=False)
sdk = openai.OpenAI(base_url=sys.argv[2], api_key={CANARIES["key"]!r}, http_client=audit.httpx2_client())
with openrouter_audit.attribution(user={CANARIES["user"]!r}, session={CANARIES["session"]!r}):
    sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=[dict(role="user", content={CANARIES["prompt"]!r})])
os.kill(os.getpid(), {int(signal.SIGKILL)})
""",
            tmp_path / "home",
            fake.url,
            check=False,
        )
    files = files_below(tmp_path / "home", tmp_path / "copy")
    assert 1 == sum(name.startswith("spool") for name in files)
    for name, data in files.items():
        assert set() == found_in(data), name

"""
P4 and P8 where something is kept of bodies: a thousand canaries, in every field and shape, plain and in a stream, quoted back by
errors, in each mode that keeps nothing or what was redacted. Then every byte that is left behind is searched, also for their base64,
hex, UTF-16 and reversed forms, and what is packed is unpacked first.
"""

import json
import logging
import subprocess
import sys
import zlib

import pytest
import re2
from tests.core.redaction.pieces import encoded_forms
from tests.core.redaction.shapes import SHAPES, canaries, secret_of
from tests.promises.servers import STREAM_HEAD, RawServer, whole
from tests.telemetry.receiver import Receiver

import openrouter_audit
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.vault import Vault

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
COUNT = 1_000
IDENTITY = {"chat, user", "messages, metadata"}
"""Shapes whose fields say who asks: such a word is kept in the vault, in every mode, and nowhere else."""
CLAIMED = {"chat, metadata"}
"""Words beside the body, kept in the vault too: as they are in mode `none`, else redacted."""
SHOWS_WHO_ASKED = {"stdout and stderr of export", "stdout and stderr of report top-spenders"}
PLANTED = [(canary, *list(SHAPES.items())[number % len(SHAPES)]) for number, canary in enumerate(canaries(COUNT))]


def answer(_, body):
    """The body comes back: as an answer, in pieces of a stream, quoted by an error before or in the middle of an answer."""
    text = body.decode()
    how = zlib.crc32(body) % 4
    if how == 0:
        yield whole(text)
    elif how == 1:
        yield whole(json.dumps({"error": {"code": 403, "message": text, "metadata": {"flagged_input": text, "raw": text}}}), status="403 Forbidden")  # fmt: skip
    else:
        yield STREAM_HEAD
        for at in range(0, len(text), 11):
            delta = {"content": text[at : at + 11]}
            yield b"data: %b\n\n" % json.dumps({"id": "gen-1", "choices": [{"index": 0, "delta": delta}]}).encode()
        if how == 3:
            yield b"data: %b\n\n" % json.dumps({"error": {"code": 502, "message": text}}).encode()
        yield b"data: [DONE]\n\n"


@pytest.fixture(scope="module", params=["none", "preview", "redacted"])
def left_behind(request, tmp_path_factory):
    """Mode, home, and everything that came of a thousand calls, by name."""
    folder = tmp_path_factory.mktemp(request.param)
    home, traces = folder / "home", dict[str, bytes]()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    root = logging.getLogger("openrouter_audit")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    patch = pytest.MonkeyPatch()
    patch.setenv("OPENROUTER_AUDIT_CONTENT_MODE", request.param)
    patch.setenv("OPENROUTER_AUDIT_ENRICH_SCOPE", "off")
    patch.setenv("OPENROUTER_AUDIT_OTEL_ENABLED", "true")
    try:
        with Receiver() as receiver, RawServer(answer) as server:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
            audit = openrouter_audit.AuditLog.open(home, hosts=["127.0.0.1"])
            with audit.httpx2_client(headers={"Authorization": f"Bearer {KEY}"}) as http:
                for canary, _, shape in PLANTED:
                    body = {"model": "openai/gpt-4.1-mini", **shape(canary)}
                    http.post(f"{server.url}/chat/completions", json=body)
            traces |= copied(home, folder / "live")
            audit.flush(30)
            audit.close(30)
            assert receiver.spans
            traces["otlp"] = repr((receiver.spans, receiver.records)).encode()
    finally:
        patch.undo()
        root.removeHandler(handler)
        root.setLevel(level)
    traces["log lines"] = "\n".join(lines).encode()
    for command in (("export",), ("report", "summary"), ("report", "errors"), ("report", "top-spenders"), ("verify",)):
        done = subprocess.run(
            [sys.executable, "-m", "openrouter_audit", "--home", str(home), *command], capture_output=True, check=False
        )
        assert done.stdout, done.stderr
        traces["stdout and stderr of " + " ".join(command)] = done.stdout + done.stderr
    traces |= copied(home, folder / "afterwards")
    return request.param, home, traces


def copied(home, copy):
    """Name and content of each file, from a copy another process makes: closing a database's file here would drop locks."""
    subprocess.run(["cp", "-R", str(home), str(copy)], check=True)
    found = {}
    for each in copy.rglob("*"):
        if each.is_file():
            name = f"{copy.name}/{each.relative_to(copy).as_posix()}"
            found[name] = each.read_bytes()
            found |= {f"{name}, unpacked at {at}": data for at, data in unpacked(found[name])}
    return found


def unpacked(data):
    """What is packed with gzip in these bytes. Nothing is with Zstandard, and a frame of it would be found."""
    assert b"\x28\xb5\x2f\xfd" not in data
    at = data.find(b"\x1f\x8b\x08")
    while at >= 0:
        try:
            yield at, zlib.decompressobj(31).decompress(data[at:])
        except zlib.error:
            pass
        at = data.find(b"\x1f\x8b\x08", at + 1)


def forms(value):
    data = value.encode()
    return [data, data[::-1], *(form.encode() for form in encoded_forms(value))]


def search_for(planted):
    """A function that tells which of them are in some bytes: one automaton for all forms, or it would take minutes."""
    by_form = {form: (canary, name) for canary, name, _ in planted for form in forms(secret_of(canary))}
    options = re2.Options()
    options.max_mem, options.never_capture = 1 << 29, True
    any_form = re2.compile("|".join(re2.escape(form.decode("latin-1")) for form in by_form).encode("latin-1"), options)

    def found_in(data):
        return sorted({by_form[found.group()] for found in any_form.finditer(data)})

    return found_in


def test_the_search_finds_a_canary_in_every_form():
    found_in = search_for(PLANTED)
    for canary, name, _ in PLANTED[:16]:
        for form in forms(secret_of(canary)):
            assert (canary, name) in found_in(b"xy " + form + b" zz")


def test_every_call_is_in_the_log_and_was_kept_as_the_mode_says(left_behind):
    mode, home, traces = left_behind
    rows = [json.loads(line) for line in traces["stdout and stderr of export"].splitlines() if line.startswith(b"{")]
    assert COUNT == len(rows)
    assert {"success", "error"} <= {row["status"] for row in rows}
    with Vault.open(Home.locate(home).vault_path, read_only=True) as vault:
        kept = [body for row in rows for body in vault.contents(row["call_id"]).values()]
    assert (0 if mode == "none" else 2 * COUNT) == len(kept)
    assert all(mode == body.mode for body in kept)
    if mode == "redacted":
        tags = b" ".join(body.text for body in kept)
        assert all(tag in tags for tag in (b"[EMAIL]", b"[PHONE]", b"[API_KEY]", b"[SSN]", b"[CREDENTIAL]", b"[IP]"))


def test_no_canary_is_left_anywhere(left_behind):
    mode, _, traces = left_behind
    spared = IDENTITY | (CLAIMED if mode == "none" else set())
    beside = search_for([each for each in PLANTED if each[1] in spared])
    others = search_for([each for each in PLANTED if each[1] not in spared])
    for name, data in traces.items():
        assert [] == others(data), name
        if "vault.db" not in name and name not in SHOWS_WHO_ASKED:
            assert [] == beside(data), name


def test_the_vault_has_who_asked(left_behind):
    _, _, traces = left_behind
    vault = b"".join(data for name, data in traces.items() if name.startswith("afterwards/vault.db"))
    asked = [each for each in PLANTED if each[1] in IDENTITY]
    assert sorted(each[:2] for each in asked) == search_for(asked)(vault)

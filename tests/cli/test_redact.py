"""`openrouter-audit redact`: what would be kept of a file, on stdout; what was found, without its value, on stderr."""

import json
import subprocess
import sys


def run(given, *arguments):
    command = [sys.executable, "-m", "openrouter_audit", "redact", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_a_body_is_shown_as_it_would_be_kept():
    body = json.dumps({"messages": [{"content": "mail jane.doe@example.com"}], "user": "u-17"}).encode()
    done = run(body)

    assert 0 == done.returncode
    assert {"messages": [{"content": "mail [EMAIL]"}], "user": "[USER_ID]"} == json.loads(done.stdout)
    assert [[b"EMAIL", b"1", b"messages[0].content"], [b"USER_ID", b"1", b"user"]] == [
        line.split() for line in done.stderr.splitlines()
    ]
    assert b"jane" not in done.stderr


def test_any_bytes_are_taken():
    done = run(b"\xff\x00 call 212-555-0187\n")

    assert (0, b"\xff\x00 call [PHONE]\n") == (done.returncode, done.stdout)


def test_json_says_classes_counts_and_places():
    done = run(
        b"a@b.example a@b.example",
        "--format",
        "json",
        "--numbered",
        "--national-id",
        "DE",
        "--off",
        "IP",
        "--any-phone",
    )
    shown = json.loads(done.stdout)

    assert ("[EMAIL_1] [EMAIL_1]", {"EMAIL": 2}) == (shown["redacted"], shown["counts"])
    assert {"class": "EMAIL", "start": 0, "end": 11, "path": ""} == shown["findings"][0]


def test_an_unknown_class_or_country_is_a_usage_error():
    for arguments in (("--off", "NAME"), ("--national-id", "XX")):
        done = run(b"x", *arguments)
        assert (64, b"") == (done.returncode, done.stdout)
        assert arguments[1].encode() in done.stderr


def test_without_the_extra_it_says_what_to_install():
    code = "import sys; sys.modules['re2'] = None\nfrom openrouter_audit.cli import main\nraise SystemExit(main(['redact']))"
    done = subprocess.run([sys.executable, "-c", code], input=b"x", capture_output=True, check=False)

    assert (69, b"") == (done.returncode, done.stdout)
    assert b"openrouter-audit[redaction]" in done.stderr
    assert b"Traceback" not in done.stderr

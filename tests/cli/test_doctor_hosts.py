"""`doctor` names hosts that look like OpenRouter and are not watched: the usual reason for "no calls seen"."""

import json
import subprocess
import sys

import httpx2

from openrouter_audit import AuditLog


def test_a_host_that_is_asked_like_openrouter_and_not_watched_is_named(tmp_path):
    """
    A proxy stands in front of OpenRouter: nothing is recorded, and doctor says which host and what to do.
    """
    home = tmp_path / "home"
    with AuditLog.open(home, enrich=False) as audit:
        client = audit.httpx2_client(transport=httpx2.MockTransport(lambda request: httpx2.Response(200, json={})))
        client.post("https://llm-proxy.example.com/api/v1/chat/completions", json={"model": "m"})
        client.get("https://weather.example.com/today")

    done = subprocess.run(
        [sys.executable, "-m", "openrouter_audit", "--home", str(home), "doctor", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )

    findings = json.loads(done.stdout)
    assert ["llm-proxy.example.com"] == findings["unwatched_hosts"]
    assert "llm-proxy.example.com is not watched" in findings["problems"][0]
    assert 2 == done.returncode
    assert 0o600 == (home / "unwatched").stat().st_mode & 0o777

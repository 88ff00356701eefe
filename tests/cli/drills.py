"""Homes with real traffic, and the command line in processes of its own, for the tests of backup and recovery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
from tests.journal.homes import KEY

import openrouter_audit
from openrouter_audit.audit_log import AuditLog
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter


def run(home: Path, *arguments: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """A command on a home, warnings being errors there as well; `code` None where any exit will do."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "openrouter_audit", "--home", str(home), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OPENROUTER_AUDIT_HOSTS": "127.0.0.1"},
    )
    assert code in {None, done.returncode}, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def answer(home: Path, *arguments: object, code: int | None = 0) -> Any:
    """What a command says as JSON."""
    return json.loads(run(home, *arguments, "--format", "json", code=code).stdout)


def call(audit: AuditLog, fake: FakeOpenRouter, count: int, *, user: str = "alice") -> None:
    """Real calls of a real SDK to the emulated OpenRouter."""
    with audit.httpx2_client() as client, openrouter_audit.attribution(user=user):
        sdk = openai.OpenAI(base_url=fake.url, api_key=KEY, http_client=client)
        for number in range(count):
            sdk.chat.completions.create(
                model="openai/gpt-4.1-mini", messages=[{"role": "user", "content": f"number {number}"}]
            )


def recording(home: Path, **options: Any) -> AuditLog:
    return AuditLog.open(home, hosts=["127.0.0.1"], enrich=False, **options)


def traffic(home: Path, fake: FakeOpenRouter, count: int, *, user: str = "alice") -> None:
    """A program that makes calls and ends."""
    with recording(home) as audit:
        call(audit, fake, count, user=user)
        audit.flush(timeout=60)


def entries(home: Path) -> list[dict[str, Any]]:
    """The entries of a log, as they are published."""
    from openrouter_audit.journal.evidence import JournalEvidence

    with JournalEvidence.open(Home(home).journal_path) as evidence:
        return [json.loads(text) for batch in evidence.batches() for _, text in batch]


def billed(fake: FakeOpenRouter, *, first: int = 0, last: int | None = None) -> Decimal:
    """What the emulator's books say was billed for some of its calls."""
    return sum((Decimal(one["billed"]) for one in fake.calls()[first:last] if one["billed"]), Decimal(0))


def summary(home: Path) -> dict[str, Any]:
    (row,) = answer(home, "report", "summary")["rows"]
    return dict(row)


def kinds(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Class and severity of the findings of `verify`."""
    return [(one["class"], one["severity"]) for one in report["findings"]]

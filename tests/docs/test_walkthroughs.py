"""
What the pages tell a reader to do, done: in an empty folder, with the programs they name, against an emulated OpenRouter.

Only addresses are exchanged: the emulator's port is a free one, and what a page says to openrouter.ai goes to the emulator.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.docs.pages import ROOT, blocks, page, section

from openrouter_audit.testing import FakeOpenRouter

KEY = "sk-or-v1-" + "0123456789abcdef" * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A reader's empty folder, and the programs a reader has."""

    folder: Path
    environment: dict[str, str]

    def sh(self, script: str) -> str:
        """What a script prints, errors included. Its lines may fail: the pages show some that do."""
        done = subprocess.run(
            ["sh", "-u", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        assert "not found" not in done.stdout, done.stdout
        return done.stdout

    def python(self, text: str, name: str = "app.py") -> str:
        (self.folder / name).write_text(text)
        done = subprocess.run(
            [sys.executable, name],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout


@pytest.fixture
def desk(tmp_path):
    folder, programs = tmp_path / "work", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for name, command in (("openrouter-audit", "-m openrouter_audit"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENROUTER", "OPENAI"))}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "COLUMNS": "200",
    }
    return Desk(folder=folder, environment=environment)


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=5) as fake:
        yield fake


def at_emulator(desk: Desk, openrouter: FakeOpenRouter) -> None:
    """Say to the programs that the emulator is the OpenRouter meant."""
    desk.environment.update(
        OPENROUTER_AUDIT_HOSTS=urlsplit(openrouter.url).netloc,
        OPENROUTER_AUDIT_HOME=str(desk.folder / "home"),
        OPENAI_BASE_URL=openrouter.url,
        OPENAI_API_KEY=KEY,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_the_tutorial_works_from_beginning_to_end(desk):
    port = str(free_port())
    found = [(language, body.replace("8123", port)) for language, body in blocks(page("docs/tutorial.md"))]
    (_, first), (_, app), *rest = found
    assert ["sh", "python"] == [language for language, _ in found[:2]]
    shutil.copy(ROOT / "examples" / "recompute_root.py", desk.folder)
    (desk.folder / "app.py").write_text(app)
    desk.environment["OPENROUTER_AUDIT_ENRICH_SCOPE"] = "off"  # else a slow machine may have settled before it is asked
    install, serve = first.splitlines()
    assert install.startswith("pip install")

    emulator = subprocess.Popen(serve.split(), cwd=desk.folder, env=desk.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert f'{{"url": "http://127.0.0.1:{port}/api/v1"}}\n' == emulator.stdout.readline()
        (record, ask, settle, prove, tamper) = (body for _, body in rest)
        environment, record = record.splitlines()
        receipts = desk.sh(f"{environment}\n{record}")
        calls = re.findall(r"Receipt\(([0-9a-f]{32}), attempt 1, success\)", receipts)
        assert 2 == len(calls)

        answers = desk.sh(f"{environment}\n{ask.replace('CALL_ID', calls[0])}")
        assert "alice" in answers
        assert "cost_state            provisional" in answers
        assert f"call_id               {calls[0]}" in answers

        assert re.search(r"^settled +2$", desk.sh(f"{environment}\n{settle}"), re.MULTILINE)

        proof = desk.sh(f"{environment}\n{prove}")
        assert proof.startswith("PROVEN")
        assert "\n0\n" in proof
        size, root = proof.splitlines()[-1].split()
        assert [size, root] == (desk.folder / "published" / "checkpoint").read_text().split("\n")[1:3]

        verdict = desk.sh(f"{environment}\n{tamper}")
        assert verdict.startswith("TAMPERED")
        for told in ("entry_changed at entry 3",):
            assert f"tampered    {told}" in verdict
        assert verdict.endswith("\n1\n")
        assert desk.sh(f"{environment}\nopenrouter-audit verify").startswith("PROVEN"), "the copy was tampered with"
    finally:
        emulator.terminate()
        emulator.wait(10)
        emulator.stdout.close()


def test_the_five_lines_and_the_older_function_of_the_readme_work(desk, openrouter):
    """Theirs is the client and the messages; ours is the rest."""
    at_emulator(desk, openrouter)
    readme = page("README.md")
    lines, seed = (body for _, body in blocks(readme, "python"))
    given = f"""import openai
client = openai.OpenAI(base_url={openrouter.url!r}, api_key={KEY!r})
messages = [{{"role": "user", "content": "Hello"}}]
"""
    before = len(openrouter.calls())
    printed = desk.python(given + lines + seed.replace('user_id="alice")', 'user_id="alice", client=client)'))

    generation, cost, latency = printed.split()
    booked = openrouter.calls()[before:]
    assert 2 == len(booked)
    assert (booked[-1]["generation_id"], booked[-1]["billed"]) == (generation, cost)
    assert float(latency) > 0
    (asked,) = (body for _, body in blocks(section(readme, "Five lines in your own app"), "sh") if "report" in body)
    answers = desk.sh(asked)
    assert "alice" in answers
    assert "PROVEN" in answers


def test_many_processes_record_into_one_home(desk, openrouter):
    at_emulator(desk, openrouter)
    how_to = page("docs/how-to/run-many-processes.md")
    ((_, program),) = blocks(how_to, "python")
    ((_, check),) = blocks(how_to, "sh")
    desk.python(program)
    answers = desk.sh(check)

    for number in range(4):
        assert f"worker-{number} " in answers
    assert "nothing to look at" in answers
    assert "PROVEN" in answers


def test_programs_are_recorded_without_code_as_told(desk, openrouter):
    """`app.py` and `pkg` are the reader's own, and say nothing of a recorder; the function is thawed and frozen once."""
    at_emulator(desk, openrouter)
    how_to = page("docs/how-to/record-without-code.md")
    theirs = """import openai
with openai.OpenAI() as client:
    client.chat.completions.create(model="openai/gpt-4.1-mini", messages=[{"role": "user", "content": "Hello"}])
"""
    (desk.folder / "app.py").write_text(theirs)
    (desk.folder / "pkg").mkdir()
    (desk.folder / "pkg" / "__main__.py").write_text(theirs)
    alone, shell, strict = (body for _, body in blocks(how_to, "sh"))

    assert "" == desk.sh(alone)
    assert re.search(r"^ +3 +3 +100\.0 ", desk.sh(shell), re.MULTILINE)
    assert "" == desk.sh(strict)
    assert (desk.folder / "audit" / "journal.db").exists()
    ((_, function),) = blocks(how_to, "python")
    asked = "print(handler({'question': 'Which invoice is overdue?'}, None), audit.pending())"
    assert desk.python(f"{function}\n{asked}", name="function.py").endswith(" 0\n")


def test_costs_are_settled_as_told(desk, openrouter):
    at_emulator(desk, openrouter)
    desk.environment["OPENROUTER_AUDIT_ENRICH_SCOPE"] = "off"
    ((_, program),) = blocks(page("docs/how-to/run-many-processes.md"), "python")
    desk.python(program)
    ask, total = (body for _, body in blocks(page("docs/how-to/settle-costs.md"), "sh"))
    answers = desk.sh(ask.replace("sk-or-v1-...", KEY))

    assert re.search(r"^unsettled +4$", answers, re.MULTILINE)
    assert re.search(r"^settled +4$", answers, re.MULTILINE)
    assert desk.sh(total).startswith("daily-cost, 2026-10-31T23:00:00.000000Z to 2026-11-30T23:00:00.000000Z")


def test_a_stranger_can_do_what_the_page_says(desk, openrouter):
    """The log grows after the stranger has looked, and passes; a log that forgot does not."""
    at_emulator(desk, openrouter)
    ((_, program),) = blocks(page("docs/how-to/run-many-processes.md"), "python")
    desk.python(program)
    publish, recompute, keep, verify = (body for _, body in blocks(page("docs/how-to/verify-as-a-stranger.md"), "sh"))
    shutil.copy(ROOT / "examples" / "recompute_root.py", desk.folder)
    openings = desk.sh(publish) + desk.sh(recompute) + desk.sh(keep)
    shutil.copytree(desk.folder / "home", desk.folder / "early-home")
    assert openings.splitlines()[-1] in (desk.folder / "my-policy").read_text()

    desk.python(program)
    desk.sh("openrouter-audit tail -n 0")
    shutil.copytree(desk.folder / "home", desk.folder / "their-home")
    shutil.rmtree(desk.folder / "their-home" / "keys")
    (desk.folder / "their-home" / "vault.db").unlink()
    assert desk.sh(verify).startswith("PROVEN")

    with sqlite3.connect(desk.folder / "their-home" / "reports.db") as reports:
        reports.execute("UPDATE calls SET total_cost = '0'")
    reports.close()
    assert "report_mismatch" in desk.sh(verify)

    shutil.rmtree(desk.folder / "their-home")
    with sqlite3.connect(desk.folder / "early-home" / "journal.db") as journal:
        journal.execute("DROP TRIGGER entries_no_delete")
        journal.execute("DELETE FROM entries WHERE idx > 3")
    journal.close()
    (desk.folder / "early-home").rename(desk.folder / "their-home")
    assert desk.sh(verify).startswith("TAMPERED")


def test_an_old_log_is_imported_as_told(desk):
    """One row with a cost, one with the 0 that means unknown, one that is no row."""
    desk.environment["OPENROUTER_AUDIT_HOME"] = str(desk.folder / "home")
    with sqlite3.connect(desk.folder / "openrouter_audit.db") as old:
        old.execute(
            "CREATE TABLE audit_log (id INTEGER PRIMARY KEY, timestamp TEXT, generation_id TEXT, model_requested TEXT,"
            " model_used TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, total_cost REAL, latency_ms REAL,"
            " status TEXT, user_id TEXT, prompt_hash TEXT, error_code TEXT)"
        )
        model = "anthropic/claude-3.5-sonnet"
        for number, at, cost in (
            (1, "2026-10-01T09:30:00", 0.00096),
            (2, "2026-10-01T09:31:00", 0.0),
            (3, "soon", 0.1),
        ):
            old.execute(
                "INSERT INTO audit_log VALUES (?, ?, ?, ?, ?, 120, 40, ?, 812.5, 'success', 'alice', '01234567', NULL)",
                (number, at, f"gen-{number}", model, model, cost),
            )
    old.close()
    how_to = page("docs/how-to/import-old-log.md")
    take, query = (body for _, body in blocks(how_to, "sh"))

    answers = desk.sh(take)
    assert "imported 2, already there 0, bad 1" in answers
    assert "row 3: timestamp is no time" in answers
    assert re.search(r"2026-10-01 .*2 +0.00096 +1 *$", answers, re.MULTILINE)
    assert "imported 0, already there 2, bad 1" in desk.sh(take)
    statement = re.search(r'"(SELECT .*)"', query)[1]
    with sqlite3.connect(desk.folder / "home" / "reports.db") as reports:
        assert [("anthropic/claude-3.5-sonnet", 2, 0.00096)] == reports.execute(statement).fetchall()
    reports.close()

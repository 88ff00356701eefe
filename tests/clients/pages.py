"""
The pages of docs/how-to/clients, done: each example runs as it stands on its page, in a process of its own, and the log it
leaves is laid beside the emulator's books and beside what the page says of it.

Only the address is exchanged: what a page says to openrouter.ai goes to the emulator, which is watched because the
environment says so. Each page is run in every environment where its client is: `RUNS` says which.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.recorded import KEY, Call, calls_of, compare
from tests.docs.pages import blocks, page, section
from tests.journal.homes import drain

from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter

FOLDER = "docs/how-to/clients"
DEVELOPMENT = "dev"
"""The environment of all other tests; the others are the groups of tests/clients."""
OPENROUTER = "https://openrouter.ai/api"
HELD = "What the log holds"
REFUSED = "When a request fails"
"""Sections of every page: the calls of its example, and those where the first request is answered with a 503."""
REFUSAL: dict[str, Any] = {"status": 503}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where the example of a page is run."""

    environments: tuple[str, ...]
    answer: dict[str, Any] | None = None
    """What the emulator is to answer, as its switches say it, where an answer in words will not do."""


RUNS = {
    "aiohttp": Run(environments=(DEVELOPMENT, "openai3")),
    "anthropic": Run(environments=(DEVELOPMENT, "openai3")),
    "httpx": Run(environments=(DEVELOPMENT, "openai3")),
    "instructor": Run(environments=("openai2",), answer={"tools": [{"name": "Invoice", "arguments": {"number": 17}}]}),
    "langchain-openai": Run(environments=("openai3",)),
    "langchain-openrouter": Run(environments=("openai2",)),
    "litellm": Run(environments=("openai2",)),
    "openai": Run(environments=(DEVELOPMENT, "openai2", "openai3")),
    "openai-agents": Run(environments=("openai3",)),
    "openrouter": Run(environments=(DEVELOPMENT, "openai2", "openai3")),
    "pydantic-ai": Run(environments=("openai3",)),
    "requests": Run(environments=(DEVELOPMENT,)),
}

SERVED = ("celery", "gunicorn", "notebooks")
"""Pages whose programs are served by others: tests/clients/servers runs them in its own ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What the examples of a page left behind."""

    codes: list[int]
    """Exit codes, in order."""
    printed: str
    said: str
    """On stderr."""
    calls: list[Call]
    rows: list[dict[str, Any]]
    """The same calls, as `openrouter-audit export` shows them."""


def pages_of(environment: str) -> list[str]:
    return [name for name, run in RUNS.items() if environment in run.environments]


def check_example(name: str, folder: Path) -> None:
    """
    The log holds what the page says, each call in its own group, for who it was said to be for; the books agree.

    Nothing is on stderr: the reader sees no word of ours, and no warning of the library's own.
    """
    ran = run(name, folder)
    assert "" == ran.said
    assert [0] * len(ran.codes) == ran.codes
    assert ran.printed
    assert told(name, HELD) == seen(ran.calls)
    assert [("alice", {"team": "billing"})] * len(ran.calls) == [(row["user_id"], row["tags"]) for row in ran.rows]
    assert len(ran.calls) == len({call.intent["group"] for call in ran.calls})
    asked = (RUNS[name].answer or {}).get("tools", [])
    for call in ran.calls:
        assert [tool["name"] for tool in asked] == [tool["name"] for tool in call.outcome.get("tool_calls") or ()]


def check_refusal(name: str, folder: Path) -> None:
    """The log holds what the page says, attempts of one request in one group; the program fails where nobody tries again."""
    ran = run(name, folder, refused=True)
    calls = told(name, REFUSED)
    assert calls == seen(ran.calls)
    assert Counter(row[3] for row in calls)["1"] == len({call.intent["group"] for call in ran.calls})
    assert [str(REFUSAL["status"])] == [call.outcome["error_code"] for call in ran.calls if call.status == "error"]
    succeeds = len(told(name, HELD)) == [row[2] for row in calls].count("success")
    assert [int(not succeeds), *[0] * (len(ran.codes) - 1)] == ran.codes
    assert succeeds == (not ran.said)


def text_of(name: str) -> str:
    return page(f"{FOLDER}/{name}.md")


def told(name: str, heading: str) -> list[tuple[str, ...]]:
    """The table of a section: endpoint, streamed, status, attempt and SDK of each call, in order."""
    cells = re.compile(r"^\| `(\w+)` \| (yes|no) \| `(\w+)` \| (\d+) \| `([\w-]+)` \|$", re.MULTILINE)
    rows = cells.findall(section(text_of(name), heading))
    assert rows, f"{name}: no calls in {heading}"
    return rows


def seen(calls: list[Call]) -> list[tuple[str, ...]]:
    """Calls as a page tells them."""
    return [
        (
            call.intent["endpoint"],
            "yes" if call.intent.get("stream") else "no",
            call.status,
            str(call.intent["attempt"]),
            call.intent["sdk"].partition("/")[0],
        )
        for call in calls
    ]


def run(name: str, folder: Path, *, refused: bool = False) -> Ran:
    """
    Run the examples of a page one after the other, on one home; prove the log they leave, and compare it with the books.

    Args:
        refused: The first request of all is refused.
    """
    answer = RUNS[name].answer
    home = Home(folder / "home")
    with FakeOpenRouter(seed=19) as fake:
        fake.script([REFUSAL] * refused + ([answer] * len(told(name, HELD)) if answer else []))
        environment = environment_of(fake.port, home)
        programs = [
            start(program, f"example_{number}.py", folder, environment)
            for number, program in enumerate(programs_of(name))
        ]
        calls, rows = recorded(home, fake, environment)
    return Ran(
        codes=[program.returncode for program in programs],
        printed="".join(program.stdout for program in programs),
        said="".join(program.stderr for program in programs),
        calls=calls,
        rows=rows,
    )


def recorded(home: Home, fake: FakeOpenRouter, environment: dict[str, str]) -> tuple[list[Call], list[dict[str, Any]]]:
    """
    The calls of a log that is proven and agrees with the books, and the same as `openrouter-audit export` shows them.

    In the order in which they were made: a log has those of several processes in the order in which it takes them in.
    """
    calls = calls_of(drain(home))
    compare(calls, fake.calls())
    rows = map(json.loads, python(home.path, environment, "-m", "openrouter_audit", "export").stdout.splitlines())
    by_time = sorted(calls, key=lambda call: call.intent["at_us"])
    return by_time, sorted(rows, key=lambda row: row["timestamp"])


def programs_of(name: str) -> list[str]:
    """The examples of a page, each a whole program."""
    return [body for _, body in blocks(text_of(name), "python")]


def start(program: str, name: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(at_emulator(program, environment))
    return python(folder, environment, name)


def at_emulator(program: str, environment: dict[str, str]) -> str:
    """A program as its page has it, but for the address."""
    assert OPENROUTER in program
    return program.replace(OPENROUTER, f"http://{environment['OPENROUTER_AUDIT_HOSTS']}/api")


def environment_of(port: int, home: Home) -> dict[str, str]:
    """A reader's, with nothing in it that another client or recorder was told."""
    foreign = ("OPENROUTER", "OPENAI", "ANTHROPIC", "LANGCHAIN", "LANGSMITH", "LITELLM", "CELERY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "OPENROUTER_API_KEY": KEY,
        "OPENROUTER_AUDIT_HOME": str(home.path),
        "OPENROUTER_AUDIT_HOSTS": f"127.0.0.1:{port}",
        "OPENROUTER_AUDIT_ENRICH_SCOPE": "off",  # the log is whole when the calls are
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks a code host for prices when it is imported
    }


def python(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )

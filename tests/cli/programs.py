"""Programs that know nothing of a recorder, started under `openrouter-audit exec` beside an emulator of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.recorded import KEY, calls_of, compare
from tests.journal.homes import drain

from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter

CALL = """
import os, httpx2
def call():
    answer = httpx2.post(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json={"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]},
        headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
"""
APP = f"{CALL}\nif __name__ == '__main__':\n    import sys\n    call()\n    print('answered', *sys.argv[1:])\n"


@dataclass(slots=True, kw_only=True)
class Desk:
    """A folder with programs in it, a home, and an emulator that is watched because the environment says so."""

    folder: Path
    home: Home
    fake: FakeOpenRouter
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: object, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "openrouter_audit", "exec", "--home", self.home.path, "--", *map(str, command)],
            cwd=self.folder,
            env={**self.environment, **changes},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: object, told: str = "", code: int = 0, said: str = "", **changes: str) -> str:
        """What the command printed; it and nobody else, and on stderr nothing but what is expected."""
        process = self.start(*command, **changes)
        out, err = process.communicate(told, timeout=120)
        assert (code, said) == (process.returncode, err), (out, err)
        return out

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def check(self, calls: int) -> None:
        """So many calls are in the books, and they are those of the log."""
        booked = self.fake.calls()
        assert calls == len(booked)
        compare(calls_of(drain(self.home)), booked)


@contextmanager
def a_desk(tmp_path: Path) -> Iterator[Desk]:
    folder = tmp_path / "work"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENROUTER", "OPENAI"))}
    with FakeOpenRouter(seed=17) as fake:
        environment = {
            **kept,
            "OPENROUTER_AUDIT_HOSTS": f"127.0.0.1:{fake.port}",
            "OPENROUTER_AUDIT_ENRICH_SCOPE": "off",
            "OPENAI_BASE_URL": fake.url,
            "OPENAI_API_KEY": KEY,
        }
        desk = Desk(folder=folder, home=Home(tmp_path / "home"), fake=fake, environment=environment)
        try:
            yield desk
        finally:
            for process in desk.started:  # of a test that failed
                if process.poll() is None:
                    process.kill()
                    process.communicate()

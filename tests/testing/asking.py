"""Plain HTTP to talk to the emulator, where an SDK would be in the way."""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openrouter_audit.testing import FakeOpenRouter

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
OTHER_KEY = "sk-or-v1-" + "fedcba9876543210" * 4
EXAMPLES = Path(__file__).parents[1] / "data" / "openrouter"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.raw.split(b"\n") if line.startswith(b"data: ")]
        return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def ask(url: str, method: str, path: str, body: Any = None, *, key: str | None = KEY, **headers: str) -> Reply:
    """One request on a connection of its own; `path` is under the base, switches go in `emulator`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items() if name != "emulator"}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        if "emulator" in headers:
            sent["X-Emulator"] = headers["emulator"]
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, parts.path + path, body=data, headers=sent)
        answer = connection.getresponse()
        raw = answer.read()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, raw)
    finally:
        connection.close()


def chat_body(text: str = "Which invoice is overdue?", **more: Any) -> dict[str, Any]:
    return {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": text}], **more}


class Asker:
    """`ask` bound to one emulator."""

    def __init__(self, fake: FakeOpenRouter) -> None:
        self._fake = fake

    def chat(self, emulator: str = "", *, key: str | None = KEY, **more: Any) -> Reply:
        return ask(self._fake.url, "POST", "/chat/completions", chat_body(**more), key=key, emulator=emulator)

    def stream(self, emulator: str = "", **more: Any) -> Reply:
        return self.chat(emulator, stream=True, **more)

    def post(self, path: str, body: Any, **headers: Any) -> Reply:
        return ask(self._fake.url, "POST", path, body, **headers)

    def get(self, path: str, **headers: Any) -> Reply:
        return ask(self._fake.url, "GET", path, **headers)

    def record(self, generation_id: str, *, key: str | None = KEY) -> Reply:
        return self.get(f"/generation?id={generation_id}", key=key)

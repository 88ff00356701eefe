"""Real stand-ins with switches: a recorder in memory, a clock that is turned by hand, a server that says what it is told."""

import hashlib
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import msgspec

from openrouter_audit.core.entries import AlertRaised, CallCost
from openrouter_audit.enrichment.enricher import Clock
from openrouter_audit.enrichment.pending import PendingCost
from openrouter_audit.errors import AuditUnavailable

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
OTHER_KEY = "sk-or-v1-" + "fedcba9876543210" * 4
COMMITMENT_KEY = bytes(range(32))
EXAMPLES = Path(__file__).parent.parent / "data" / "openrouter"
HOUR_US = 3600 * 1_000_000


def hash_of(key):
    return hashlib.sha256(key.encode()).hexdigest()


def a_call(generation_id="gen-1-abc", *, base_url="http://127.0.0.1:9/api/v1", key=KEY, n=1, **changes):
    fields = {
        "call_id": f"{n:032x}",
        "generation_id": generation_id,
        "base_url": base_url,
        "key_hash": hash_of(key),
        "api_key": key,
        "commitment_key": COMMITMENT_KEY,
        "ended_us": 1_795_424_400_000_000,
    }
    return PendingCost(**(fields | changes))


def just_ended(generation_id="gen-1-abc", **changes):
    """A call two seconds old by the machine's own clock: due at once, and far from its horizon."""
    return a_call(generation_id, ended_us=time.time_ns() // 1000 - 2_000_000, **changes)


class MemoryRecorder:
    """Keeps what is written; each record passes through msgpack, as it would on its way into a frame."""

    def __init__(self, *, refuse=0, keep_refused=False):
        self.facts = []
        self.refuse = refuse
        self.keep_refused = keep_refused
        self.written = threading.Condition()

    def write(self, facts, private=None, *, follows=None):
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=type(facts))
        with self.written:
            if self.refuse:
                self.refuse -= 1
                if self.keep_refused:
                    self.facts.append(copy)
                raise AuditUnavailable("the spool is full", reason="full")
            self.facts.append(copy)
            self.written.notify_all()
        return object()

    def wait_for(self, count, timeout=20):
        with self.written:
            assert self.written.wait_for(lambda: len(self.facts) >= count, timeout), self.facts
        return self.facts

    @property
    def costs(self):
        return [facts for facts in self.facts if isinstance(facts, CallCost)]

    @property
    def alerts(self):
        return [facts for facts in self.facts if isinstance(facts, AlertRaised)]


class TurnedClock:
    """Stands still until it is turned; UTC and monotonic time go together."""

    def __init__(self, utc_us=1_795_424_400_000_000):
        self.utc_us = utc_us
        self.begin_us = utc_us
        self.sleeps = []

    def turn(self, us):
        self.utc_us += us

    def sleep(self, us):
        self.sleeps.append(us)
        self.turn(us)

    @property
    def passed_us(self):
        return self.utc_us - self.begin_us

    def clock(self):
        return Clock(
            utc_us=lambda: self.utc_us,
            monotonic_us=lambda: self.utc_us - self.begin_us,
            jitter=lambda: 0.5,
            sleep_us=self.sleep,
        )


def run_steps(enricher, clock, *, until_us=10**15, most=10_000):
    """Drive an enricher without its thread: ask what is due, turn the clock to what is due next."""
    for _ in range(most):
        wait_us = enricher.step()
        if wait_us is None or clock.passed_us + wait_us > until_us:
            return
        clock.turn(wait_us)
    raise AssertionError("it never comes to rest")


def charge(fake, *, key=KEY, model="openai/gpt-4.1-mini", path="/chat/completions", **switches):
    """Make one call at the emulator; returns its generation id and `usage.cost` as text."""
    headers = {"Authorization": f"Bearer {key}"}
    if switches:
        headers["X-Emulator"] = "; ".join(f"{name}={value}" for name, value in switches.items())
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx2.post(fake.url + path, headers=headers, json=body, trust_env=False)
    cost = None
    if response.status_code == 200:
        cost = bytes(msgspec.json.decode(response.content, type=dict[str, msgspec.Raw])["usage"])
        cost = bytes(msgspec.json.decode(cost, type=dict[str, msgspec.Raw])["cost"]).decode()
    return response.headers.get("x-generation-id"), cost


class ScriptedServer:
    """
    Answers GETs with what was queued; the last answer is repeated. Keeps what it was asked.

    Each answer is (status, headers, body), or "hang": it holds the connection open, silent, until the server is closed.
    """

    def __init__(self, *answers):
        self.answers = deque(answers)
        self.requests = []
        self.ports = []
        self.hanging = threading.Event()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}/api/v1"

    def _answer(self, handler):
        self.requests.append((handler.path, dict(handler.headers.items())))
        self.ports.append(handler.client_address[1])
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if answer == "hang":
            self.hanging.set()
            self._over.wait(30)
            handler.close_connection = True
            return
        status, headers, body = answer
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

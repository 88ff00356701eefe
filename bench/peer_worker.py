"""
One contender of `bench.peers`: a process that calls in its own way, a few calls at a time, when it is told to.

It runs in the environment of its contender, where nothing else of this project may be installed, so a module of a contender is
imported where that contender is set up. A line of JSON on its input is a command, a line of JSON on its output the answer:

    {"do": "turn", "case": "short", "calls": 8}   microseconds of the calling thread and of the wall, the median call of each
    {"do": "mark"}                                from here on the CPU of the whole process is counted
    {"do": "settle"}                              waits for what is on its way, then says that CPU
    {"do": "end"}                                 calls made, records in files of its own, memory

Each prompt begins with the contender's name and the number of the call: that is how a sink knows what has arrived.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.inproc import KEY, pin

MODEL = "openai/gpt-4.1-mini"
CASES = {"short": (500, False), "large": (100_000, False), "stream": (500, True)}
"""Letters of the prompt, and whether the answer is streamed."""

Call = Callable[[str, bool], Any]


@dataclass(frozen=True)
class Where:
    base_url: str
    sink_url: str
    folder: Path
    """Files of the contender's own."""


@dataclass(frozen=True)
class Contender:
    call: Call
    """Makes one call with this prompt, streamed or not, and reads the answer to its end; returns its last piece."""
    settle: Callable[[], object] = lambda: None
    """Returns when what the calls left to do is done."""
    kept: Callable[[], int] = lambda: 0
    """Records in files of its own; what arrives at the sink is counted there."""
    close: Callable[[], object] = lambda: None


def ask(client: Any) -> Call:
    """Calls of an openai client, whoever made it."""

    def call(prompt: str, stream: bool) -> Any:
        messages = [{"role": "user", "content": prompt}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, stream=stream)
        return _last(answer) if stream else answer

    return call


def _last(stream: Any) -> Any:
    """The last piece, once all of them are read."""
    return deque(stream, maxlen=1).pop()


def openai_client(where: Where, **options: Any) -> Any:
    import openai

    return openai.OpenAI(base_url=where.base_url, api_key=KEY, max_retries=0, **options)


# Without a recorder, and the least that one can do -----------------------------------------------------------------


def bare(where: Where) -> Contender:
    return Contender(ask(openai_client(where)))


def _teed(where: Where, finished: Callable[[bytes, list[bytes]], object]) -> Any:
    """
    An openai client over a transport that keeps references to the bytes, and hands them on at the end of the answer.

    The end of a stream is its close: the client stops reading at `[DONE]`.
    """
    import httpx2
    import openai

    class Body(httpx2.SyncByteStream):
        def __init__(self, body: Any, request: bytes) -> None:
            self.body, self.request, self.pieces = body, request, list[bytes]()

        def __iter__(self) -> Any:
            for piece in self.body:
                self.pieces.append(piece)
                yield piece

        def close(self) -> None:
            self.body.close()
            finished(self.request, self.pieces)

    class Transport(httpx2.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            response = super().handle_request(request)
            response.stream = Body(response.stream, request.content)
            return response

    transport = Transport(limits=openai.DEFAULT_CONNECTION_LIMITS)
    return openai_client(where, http_client=openai.DefaultHttpxClient(transport=transport))


def tee(where: Where) -> Contender:
    return Contender(ask(_teed(where, lambda _request, _pieces: None)))


def one_write(where: Where) -> Contender:
    path = where.folder / "records"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    written = [0]

    def finished(request: bytes, pieces: list[bytes]) -> None:
        answer = b"".join(pieces)
        digest = hashlib.sha256(request)
        digest.update(answer)
        os.writev(descriptor, (digest.digest(), request, answer))
        written[0] += 1

    return Contender(ask(_teed(where, finished)), kept=lambda: written[0])


# Ours --------------------------------------------------------------------------------------------------------------


def _ours(where: Where, mode: Any, *, alone: bool = False) -> Contender:
    """`alone`: sequencer and reports run in this process too; else the sequencer is another process's."""
    from openrouter_audit import AuditLog

    audit = AuditLog.open(where.folder, mode=mode, hosts=[_host(where.base_url)], sequencer=alone, enrich=False)
    settle: Callable[[], object] = (lambda: audit.flush(60)) if alone else (lambda: None)
    return Contender(ask(audit.wrap(openai_client(where))), settle=settle, close=audit.close)


def _host(base_url: str) -> str:
    return base_url.split("/")[2]


def buffer(where: Where) -> Contender:
    return _ours(where, "buffer")


def strict(where: Where) -> Contender:
    return _ours(where, "strict")


def alone(where: Where) -> Contender:
    return _ours(where, "buffer", alone=True)


def elsewhere(where: Where) -> Contender:
    import openrouter_audit

    openrouter_audit.install(where.folder)
    return Contender(ask(openai_client(where)))


# Peers -------------------------------------------------------------------------------------------------------------


def by_hand(where: Where) -> Contender:
    """As guides have it: after each call a GET of what it was billed, a line of log, and a row in SQLite, in the call."""
    import logging
    import sqlite3

    import requests

    logger = logging.getLogger("by-hand")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(where.folder / "audit.log"))
    rows = sqlite3.connect(where.folder / "audit.db")
    rows.execute("CREATE TABLE audit (at REAL, id TEXT, prompt TEXT, answer TEXT, cost REAL)")
    make = ask(openai_client(where))

    def call(prompt: str, stream: bool) -> None:
        answer = make(prompt, stream)
        address = f"{where.base_url}/generation"
        said = requests.get(
            address, params={"id": answer.id}, headers={"Authorization": f"Bearer {KEY}"}, timeout=10
        ).json()
        row = (time.time(), answer.id, prompt, answer.model_dump_json(), said["data"]["total_cost"])
        logger.info(json.dumps(row))
        rows.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", row)
        rows.commit()

    return Contender(call, kept=lambda: int(rows.execute("SELECT count(*) FROM audit").fetchone()[0]))


def langfuse(where: Where) -> Contender:
    from langfuse import Langfuse

    sender = Langfuse(public_key="pk-lf-bench", secret_key="sk-lf-bench", base_url=where.sink_url)
    from langfuse.openai import OpenAI

    client = OpenAI(base_url=where.base_url, api_key=KEY, max_retries=0)
    return Contender(ask(client), settle=sender.flush, close=sender.shutdown)


def _provider(where: Where, *, exports: bool) -> Any:
    """A tracer provider with the batch processor as it comes, over HTTP to the sink or to nowhere."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> Any:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{where.sink_url}/v1/traces") if exports else Nowhere()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _instrumented(where: Where, instrumentor: Any, *, exports: bool) -> Contender:
    provider = _provider(where, exports=exports)
    instrumentor.instrument(tracer_provider=provider)
    return Contender(ask(openai_client(where)), settle=provider.force_flush, close=provider.shutdown)


def openllmetry(where: Where, *, exports: bool = True) -> Contender:
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    return _instrumented(where, OpenAIInstrumentor(), exports=exports)


def openinference(where: Where, *, exports: bool = True) -> Contender:
    from openinference.instrumentation.openai import OpenAIInstrumentor

    return _instrumented(where, OpenAIInstrumentor(), exports=exports)


def openllmetry_nowhere(where: Where) -> Contender:
    return openllmetry(where, exports=False)


def openinference_nowhere(where: Where) -> Contender:
    return openinference(where, exports=False)


def litellm(where: Where) -> Contender:
    """Its own client, with a callback that writes a line of JSON; it calls back from a thread, after the call returned."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet what models cost
    import litellm as library
    from litellm.integrations.custom_logger import CustomLogger

    library.suppress_debug_info = True
    records = (where.folder / "calls.jsonl").open("a")
    written, made = [0], [0]

    class Callback(CustomLogger):  # type: ignore[misc]
        def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            line = {"model": kwargs["model"], "messages": kwargs["messages"], "answer": str(response_obj)}
            records.write(json.dumps({**line, "cost": kwargs.get("response_cost")}) + "\n")
            records.flush()
            written[0] += 1

    library.callbacks = [Callback()]

    def call(prompt: str, stream: bool) -> Any:
        answer = library.completion(
            model=f"openrouter/{MODEL}",
            messages=[{"role": "user", "content": prompt}],
            stream=stream,
            api_base=where.base_url,
            api_key=KEY,
            max_retries=0,
        )
        made[0] += 1
        return _last(answer) if stream else answer

    def settle() -> None:
        deadline = time.monotonic() + 10
        while written[0] < made[0] and time.monotonic() < deadline:
            time.sleep(0.01)

    return Contender(call, settle=settle, kept=lambda: written[0])


def mlflow(where: Where) -> Contender:
    """Traces of its autolog in the SQLite store, which is its default."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow as library

    library.set_tracking_uri(f"sqlite:///{where.folder / 'mlflow.db'}")
    library.set_experiment("bench")
    library.openai.autolog()

    def kept() -> int:
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(where.folder / "mlflow.db")) as store:
            return int(store.execute("SELECT count(*) FROM trace_info").fetchone()[0])

    return Contender(ask(openai_client(where)), settle=library.flush_trace_async_logging, kept=kept)


CONTENDERS: dict[str, Callable[[Where], Contender]] = {
    "bare": bare,
    "tee": tee,
    "one-write": one_write,
    "elsewhere": elsewhere,
    "buffer": buffer,
    "strict": strict,
    "alone": alone,
    "by-hand": by_hand,
    "langfuse": langfuse,
    "openllmetry": openllmetry,
    "openllmetry-nowhere": openllmetry_nowhere,
    "openinference": openinference,
    "openinference-nowhere": openinference_nowhere,
    "litellm": litellm,
    "mlflow": mlflow,
}


class Worker:
    """Does what it is told with one contender, and counts."""

    def __init__(self, name: str, where: Where) -> None:
        self._name = name
        self._contender = CONTENDERS[name](where)
        self._made = 0
        self._cpu_ns = self._made_at_mark = 0

    def turn(self, case: str, calls: int) -> dict[str, float]:
        letters, stream = CASES[case]
        thread, wall = [], []
        for _ in range(calls):
            self._made += 1
            prompt = f"peer:{self._name}:{self._made:07d}: ".ljust(letters, "x")
            started, started_cpu = time.perf_counter_ns(), time.thread_time_ns()
            self._contender.call(prompt, stream)
            thread.append(time.thread_time_ns() - started_cpu)
            wall.append(time.perf_counter_ns() - started)
        return {"thread_us": statistics.median(thread) / 1000, "wall_us": statistics.median(wall) / 1000}

    def mark(self) -> dict[str, float]:
        self._contender.settle()
        self._cpu_ns, self._made_at_mark = time.process_time_ns(), self._made
        return {}

    def settle(self) -> dict[str, float]:
        self._contender.settle()
        spent = time.process_time_ns() - self._cpu_ns
        return {"process_us": spent / 1000 / (self._made - self._made_at_mark)}

    def end(self) -> dict[str, float]:
        self._contender.settle()
        said = {"made": self._made, "kept": self._contender.kept(), "rss_mib": _resident_mib()}
        self._contender.close()
        return said


def _resident_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("base_url")
    parser.add_argument("sink_url")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer of ours
    pin(0)
    worker = Worker(options.name, Where(options.base_url, options.sink_url, options.folder))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(worker, command.pop("do"))(**command)), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""
What recording adds to a call, ours beside what others add, in one run.

    python -m bench.peers [--quick] [--json] [--cache FOLDER] [--only NAME,...]

Each contender is a process of its own (`bench.peer_worker`), all on one core; server, sequencers and the sink that peers export
to are on another. They take turns, a few calls each, round after round, every round begun by another one. What a contender adds is
the median over rounds of its median call less the bare client's of the same round, with the quartiles: CPU of the calling thread, and
wall time. CPU of the whole process is counted over a case, with what a contender does afterwards. A peer's packages are installed
by pip into environments of its own in a folder that is kept for the next run; one that cannot be installed, started or run is
named as missing. A contender is said to export when its calls have arrived: the sink looks for each call's number.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench import stage
from bench.inproc import CHUNKS, pin

ROOT: Final = Path(__file__).parents[1]
EVENTS: Final = CHUNKS + 2
"""Of a stream: with words, its finish, and the usage; `[DONE]` is none."""
CALLS: Final = {"short": 8, "large": 6, "stream": 3}
"""In a turn."""
TITLES: Final = {"short": "short plain call", "large": "100 KB prompt", "stream": f"stream of {EVENTS} events"}
BARS_US: Final = {"short": 60.0, "large": 200.0, "stream": 300.0}
BAR_EVENT_US: Final = 4.0
BAR_OF_PEER: Final = 1 / 3
WARM_UP_ROUNDS: Final = 4
_NUMBERED: Final = re.compile(rb"peer:([a-z-]+):(\d{7}):")

SHARED: Final = ("openai", "httpx2", "httpcore2", "pydantic", "anyio", "h11")
"""What the client itself is made of: peers get the versions that this interpreter has, so that the client costs the same."""
_OTLP: Final = ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2")
ENVIRONMENTS: Final[dict[str, list[tuple[str, ...]]]] = {
    "openllmetry": [("*", *_OTLP, "opentelemetry-instrumentation-openai==0.62.4")],
    "openinference": [("*", *_OTLP, "openinference-instrumentation-openai==0.1.66")],
    "langfuse": [("*", "langfuse==5.0.4")],
    # The newer one asks for a certifi that not every index has; on what the older one needs it runs.
    "litellm": [("litellm==1.106.2",), ("--no-deps", "litellm==1.109.1")],
    "mlflow": [("*", "mlflow==3.17.2")],
}
"""Packages of each environment, one pip command after the other; `*` stands for the client's own."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    name: str
    what: str
    environment: str = ""
    """One of `ENVIRONMENTS`; else this interpreter."""
    ours: bool = False
    sequenced: bool = False
    """A sequencer of another process works on its home."""
    optional: bool = False
    """Runs only when it is asked for."""


ENTRANTS: Final = (
    Entrant(name="bare", what="the openai client"),
    Entrant(name="tee", what="a transport that keeps the bytes and does nothing"),
    Entrant(name="one-write", what="the same, with SHA-256 and one write of the bytes, unsealed"),
    Entrant(name="elsewhere", what="ours, installed, the calls are to another host", ours=True),
    Entrant(name="buffer", what="ours, sequencer in another process", ours=True, sequenced=True),
    Entrant(name="strict", what="ours, synced, sequencer in another process", ours=True, sequenced=True),
    Entrant(name="alone", what="ours, sequencer and reports in the process", ours=True),
    Entrant(name="by-hand", what="GET of the cost, log line and SQLite row, in the call"),
    Entrant(name="langfuse", what="Langfuse", environment="langfuse"),
    Entrant(name="openllmetry", what="OpenLLMetry, batches over OTLP", environment="openllmetry"),
    Entrant(name="openllmetry-nowhere", what="the same, exports nothing", environment="openllmetry"),
    Entrant(name="openinference", what="OpenInference, batches over OTLP", environment="openinference"),
    Entrant(name="openinference-nowhere", what="the same, exports nothing", environment="openinference"),
    Entrant(name="litellm", what="LiteLLM, callback writes a line", environment="litellm"),
    Entrant(name="mlflow", what="MLflow autolog, SQLite store", environment="mlflow", optional=True),
)


class Missing(Exception):
    """A contender cannot take part; says why."""


# Environments ------------------------------------------------------------------------------------------------------


def interpreter(name: str, cache: Path) -> str:
    """
    The Python of an environment, which is made when it is not there, or not of these packages.

    Raises:
        Missing: It cannot be made here.
    """
    if not name:
        return sys.executable
    own = [f"{package}=={version(package)}" for package in SHARED]
    steps = [[word for part in step for word in (own if part == "*" else [part])] for step in ENVIRONMENTS[name]]
    folder, wanted = cache / name, json.dumps([sys.version, *steps])
    python, stamp = folder / "bin" / "python", folder / "made-of.json"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"installing {name} into {folder}", file=sys.stderr)
        stamp.unlink(missing_ok=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        for step in steps:
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step)
        stamp.write_text(wanted)
    return str(python)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing((done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1][:300])


# The sink ----------------------------------------------------------------------------------------------------------


class Sink(ThreadingHTTPServer):
    """Takes whatever is exported, and remembers which calls it saw."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.seen: dict[str, set[int]] = defaultdict(set)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        for name, number in _NUMBERED.findall(body):
            self.seen[name.decode()].add(int(number))


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        match self.headers.get("content-encoding"):
            case "gzip":
                body = gzip.decompress(body)
            case "deflate":
                body = zlib.decompress(body)
        self.server.take(body)
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


# Workers -----------------------------------------------------------------------------------------------------------


class Worker:
    """The process of a contender."""

    def __init__(
        self, entrant: Entrant, python: str, base_url: str, sink_url: str, *, folder: Path, compiled: Path
    ) -> None:
        """
        Start it, and wait until it can make calls.

        Raises:
            Missing: It did not come up.
        """
        self.entrant, self.home = entrant, folder / "files"
        self.home.mkdir(parents=True, mode=0o700)
        self._errors = folder / "stderr"
        self._beside = ExitStack()
        paths = [str(ROOT), *([str(ROOT / "src")] if entrant.ours else [])]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", "bench.peer_worker", entrant.name, base_url, sink_url, str(self.home)],
                env={**stage.compiled_into(compiled), "PYTHONPATH": os.pathsep.join(paths)},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._read()
        if entrant.sequenced:
            self._beside.enter_context(stage.sequencing(self.home))

    def ask(self, **command: object) -> dict[str, float]:
        """
        Have it do something, and wait until it did.

        Raises:
            Missing: It is not there any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are among its errors
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(10)
            raise Missing((self._errors.read_text().strip() or "it ended without a word").splitlines()[-1][:300])
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it, and the sequencer beside it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._beside.close()


@contextmanager
def field(
    entrants: Sequence[Entrant], cache: Path, base_url: str, sink_url: str, missing: dict[str, str]
) -> Iterator[dict[str, Worker]]:
    """The contenders that could be started; the others are named in `missing`, with the reason."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder, ExitStack() as stack:
        for entrant in entrants:
            own = Path(folder) / entrant.name
            try:
                python = interpreter(entrant.environment, cache)
                worker = Worker(entrant, python, base_url, sink_url, folder=own, compiled=cache / "compiled")
            except Missing as error:
                miss(entrant.name, error, missing)
            else:
                workers[entrant.name] = stack.enter_context(closing(worker))
        yield workers


def miss(name: str, error: Missing, missing: dict[str, str]) -> None:
    missing[name] = str(error)
    print(f"MISSING: {name}: {error}", file=sys.stderr)


# Measuring ---------------------------------------------------------------------------------------------------------

Rounds = dict[str, list[dict[str, float]]]


def measure(workers: dict[str, Worker], case: str, rounds: int, missing: dict[str, str]) -> tuple[Rounds, Rounds]:
    """Turns of one case, by contender and round; and what the whole process took for a call, once for each contender."""
    for _ in range(WARM_UP_ROUNDS):
        _each(workers, missing, do="turn", case=case, calls=CALLS[case])
    _each(workers, missing, do="mark")
    turns: Rounds = defaultdict(list)
    for number in range(rounds):
        for name, said in _each(workers, missing, first=number, do="turn", case=case, calls=CALLS[case]).items():
            turns[name].append(said)
    whole = {name: [said] for name, said in _each(workers, missing, do="settle").items()}
    return turns, whole


def _each(
    workers: dict[str, Worker], missing: dict[str, str], *, first: int = 0, **command: object
) -> dict[str, dict[str, float]]:
    """What each says; they begin at another one in each round. One that breaks takes no further part."""
    names = list(workers)
    first %= len(names)
    said = {}
    for name in (*names[first:], *names[:first]):
        try:
            said[name] = workers[name].ask(**command)
        except Missing as error:
            miss(name, error, missing)
            del workers[name]
    return said


def added(turns: Rounds, name: str, field: str) -> list[float]:
    """Lower quartile, median and upper quartile of what a contender's call takes more than the bare one of its round."""
    differences = [turn[field] - bare[field] for turn, bare in zip(turns[name], turns["bare"], strict=True)]
    return [round(value, 1) for value in statistics.quantiles(differences, n=4)]


def figures_of(turns: Rounds, whole: Rounds) -> dict[str, dict[str, Any]]:
    """By contender, microseconds; the bare client's are its own, the others' are added to it."""
    bare = {
        field: round(statistics.median(turn[field] for turn in turns["bare"]), 1) for field in ("thread_us", "wall_us")
    }
    bare["process_us"] = round(whole["bare"][0]["process_us"], 1)
    figures: dict[str, dict[str, Any]] = {"bare": bare}
    for name in whole:
        if name != "bare":
            figures[name] = {
                "thread_added_us": added(turns, name, "thread_us"),
                "wall_added_us": added(turns, name, "wall_us"),
                "process_added_us": round(whole[name][0]["process_us"] - bare["process_us"], 1),
            }
    return figures


def records(workers: dict[str, Worker], sink: Sink, missing: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Calls made and kept of each, where they are kept, and the largest memory of the process. Ends the workers."""
    said = _each(workers, missing, do="end")
    for name, counts in said.items():
        worker = workers[name]
        worker.close()
        where = "its files"
        if worker.entrant.ours and name != "elsewhere":
            counts["kept"], where = stage.recorded_calls(worker.home), "journal"
        elif sink.seen[name]:
            counts["kept"], where = len(sink.seen[name]), "sink"
        counts["rss_mib"] = round(counts["rss_mib"], 1)
        said[name] = {**counts, "where": where if counts["kept"] else "-"}  # type: ignore[dict-item]
    return said


def judge(cases: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Ours beside the bars, and beside the cheapest of those whose calls have arrived at the sink."""
    exporters = [name for name, counts in kept.items() if counts["where"] == "sink"]
    verdicts: dict[str, Any] = {"exporters": exporters}
    for case, figures in cases.items():
        ours = figures["buffer"]
        for field in ("thread_added_us", "wall_added_us"):
            verdicts[f"{case}_{field}"] = _verdict(ours[field][1], BARS_US[case])
            peers = {name: figures[name][field][1] for name in exporters if name in figures}
            if peers:
                cheapest = min(peers, key=peers.__getitem__)
                ratio = _verdict(round(ours[field][1] / peers[cheapest], 3), BAR_OF_PEER)
                verdicts[f"{case}_{field}_of_cheapest_peer"] = {**ratio, "peer": cheapest}
    if "stream" in cases:
        for field in ("thread_added_us", "wall_added_us"):
            each = cases["stream"]["buffer"][field][1] / EVENTS
            verdicts[f"event_{field}"] = _verdict(round(each, 2), BAR_EVENT_US)
    return verdicts


def _verdict(figure: float, bar: float) -> dict[str, Any]:
    return {"is": figure, "bar": round(bar, 3), "held": figure <= bar}


# Telling -----------------------------------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    width = max(len(entrant.name) for entrant in ENTRANTS)
    for case, figures in result["cases"].items():
        bare = figures["bare"]
        print(
            f"\n{TITLES[case]}, us: bare {bare['thread_us']:,.0f} of the thread, {bare['wall_us']:,.0f} of wall time,"
            f" {bare['process_us']:,.0f} of the process; added (quartiles):"
        )
        print(f"  {'':{width}}  {'thread':>26}  {'wall p50':>26}  {'process':>8}")
        for name, figure in figures.items():
            if name != "bare":
                columns = (_spread(figure[field]) for field in ("thread_added_us", "wall_added_us"))
                print(f"  {name:{width}}  {'  '.join(columns)}  {figure['process_added_us']:+8,.0f}")
    print("\ncalls made and kept:")
    for name, counts in result["records"].items():
        print(
            f"  {name:{width}}  {counts['made']:6.0f}  {counts['kept']:6.0f}  in {counts['where']:9}"
            f"  {counts['rss_mib']:6.0f} MiB at most"
        )
    print("\nours (buffer) and the bars:")
    for name, verdict in result["verdicts"].items():
        if name != "exporters":
            peer = f" ({verdict['peer']})" if "peer" in verdict else ""
            held = "held" if verdict["held"] else "MISSED"
            print(f"  {name:44}  {verdict['is']:8g}  bar {verdict['bar']:g}  {held}{peer}")
    for name, reason in result["missing"].items():
        print(f"MISSING: {name}: {reason}")


def _spread(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:+8,.0f} {f'({low:+,.0f} .. {high:+,.0f})':>17}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "openrouter-audit-peers")
    parser.add_argument("--only", help="contenders, with commas; the bare client and ours in `buffer` always run")
    options = parser.parse_args()
    asked = {*options.only.split(","), "bare", "buffer"} if options.only else None
    entrants = [one for one in ENTRANTS if (one.name in asked if asked else not one.optional)]
    rounds = 21 if options.quick else 101

    pin(1)
    missing: dict[str, str] = {}
    sink = Sink()
    with stage.serving() as port:
        base_url = f"http://127.0.0.1:{port}/api/v1"
        with field(entrants, options.cache.absolute(), base_url, sink.url, missing) as workers:
            cases = {case: figures_of(*measure(workers, case, rounds, missing)) for case in CALLS}
            kept = records(workers, sink, missing)
    result = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "rounds": rounds,
        "cases": cases,
        "records": kept,
        "verdicts": judge(cases, kept),
        "missing": missing,
    }
    if not options.json:
        show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""
A fault at every system call of every operation, and the proof of the home after each.

One process, the stage, has everything loaded and a few prepared homes. For each point it copies a home and forks a child,
which makes its operation ready, then plays it while one call fails, is cut short or is its last. What the child was told is
in a ledger of shared memory. Then another child opens the home without faults, goes on with it, and judges: nothing
acknowledged is lost, nothing is there twice, the whole log is proven, and what was said to be sent was durable before.

`python -m tests.campaign.syscalls strace|shim --seed 1 --points 300` plays a sample (0: all of them) and prints a line of
JSON for each point, and first one with the points there are. `--operations "publish,settle"` takes their points alone, and
`--only` plays one point again:
`--only "drain and commit/pwrite64/3/EIO"`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign import syscalls_shim, syscalls_strace
from tests.campaign.syscalls_operations import OPERATIONS, Ledger, Operation, Stage, copy, files_of, nature_of, prepare
from tests.journal.homes import drain, new_spool, of_kind, statuses, write_calls

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.vault import Vault
from openrouter_audit.reports.projection import Projection

PATIENCE_S = 60.0
"""A child that takes longer hangs: what it does takes a few milliseconds."""
TRIES = 4
DELETIONS = ("unlink", "unlinkat", "os.unlink")
SPOOLED = ("segment.seg", "state")
"""Files of a segment that is in the journal: that they cannot be removed, ever, must not stop a drain."""
BROKEN = (
    "acknowledged lost",
    "doubled",
    "loss not said",
    "loss said without one",
    "sent before durable",
    "written after a failed sync",
    "undeclared error",
    "never recovers in the process",
    "log not whole",
    "not proven",
    "publication not readable",
    "home not usable",
    "hangs",
)


@dataclass(frozen=True, slots=True, order=True)
class Point:
    operation: str
    call: str
    number: int
    fault: str
    file: str = ""
    """The nature of the file it is done to."""

    def __str__(self) -> str:
        return f"{self.operation}/{self.call}/{self.number}/{self.fault}"


@dataclass(slots=True, kw_only=True)
class Played:
    point: str
    came: bool
    """Whether the call was reached: random names and sizes may change the way a little."""
    end: str
    """`done`, `refused` (to the last), `broke`, `killed`, `hung`."""
    errors: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)


class Theatre:
    """Plays points. One process uses it; everything it makes is in one folder."""

    def __init__(self, tool: str, folder: Path) -> None:
        self._tool = tool
        self._folder = folder
        self._prepared = folder / "prepared"
        self._prepared.mkdir()
        prepare(self._prepared)
        self._ledger = Ledger()
        self._plays = 0
        self._trace: list[syscalls_strace.Traced] = []
        """Of the newest play under strace."""

    def points(self, operations: Collection[str]) -> list[Point]:
        """All points of these operations, from a run of each without faults."""
        found = []
        for name in operations:
            calls, played = self._dry(name)
            if played.end != "done" or played.broken:
                raise RuntimeError(f"{name} without a fault: {played}")
            faults_of = syscalls_shim.faults_of if self._tool == "shim" else syscalls_strace.faults_of
            found += [Point(name, call, n, fault, file) for call, n, file in calls for fault in faults_of(call)]
        return found

    def _dry(self, operation: str) -> tuple[list[tuple[str, int, str]], Played]:
        """Name, number and kind of file of each call that an operation makes to files of its own."""
        played = self.play(Point(operation, "", 0, ""))
        if self._tool == "shim":
            calls = [(line[1], *line[2].split()) for line in self._ledger.lines() if line[0] == "call"]
            return [(name, int(number), file) for name, number, file in calls], played
        found = []
        for call in self._trace:
            ours = [path for path in call.paths if str(self._folder) in path]
            if ours:
                found.append((call.name, call.number, nature_of(ours[0])))
        return found, played

    def play(self, point: Point) -> Played:
        operation = OPERATIONS[point.operation]
        self._plays += 1
        folder = self._folder / f"play-{self._plays}"
        copy(self._prepared / operation.prepared, folder)
        try:
            return self._play(point, operation, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _play(self, point: Point, operation: Operation, folder: Path) -> Played:
        self._ledger.clear()
        fault = (point.call, point.number, point.fault) if point.fault else None
        end = self._run(operation, folder, fault)
        lines = self._ledger.lines()
        played = Played(point=str(point), came=fault is None, end=end)
        if self._tool == "shim":
            played.came |= any(line[0] == "fault" for line in lines)
            events = [(line[1], *line[2].split()) for line in lines if line[0] == "event"]
            happened = [(kind, segment, ok == "1") for kind, segment, ok in events]
        else:
            self._trace = syscalls_strace.read_trace(folder / "trace")
            played.came |= end == "killed" or any(call.injected for call in self._trace)
            happened = syscalls_strace.events(self._trace)
        played.broken += check_durability(happened)
        played.errors = [" ".join(line[1:]) for line in lines if line[0] == "error"]
        played.broken += [("undeclared error", " ".join(line[1:])) for line in lines if line[0] == "undeclared"]
        if end == "hung":
            played.broken.append(("hangs", ""))
        lasting = point.fault.endswith("+") and not (point.call in DELETIONS and point.file in SPOOLED)
        if end == "refused" and played.errors and not lasting:
            played.broken.append(("never recovers in the process", played.errors[-1]))
        played.broken += self._judge(operation, folder, lines)
        return played

    # The child with the fault -----------------------------------------------------------------------------------

    def _run(self, operation: Operation, folder: Path, fault: tuple[str, int, str] | None) -> str:
        ready, gate = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._child(operation, folder, fault, ready[1], gate[0])
            finally:
                os._exit(0)
        os.close(ready[1])
        os.close(gate[0])
        os.read(ready[0], 1)
        tracer = None
        if self._tool == "strace":
            tracer = syscalls_strace.attach(pid, folder / "trace", fault=fault)
        os.write(gate[1], b"!")
        os.close(gate[1])
        os.close(ready[0])
        status = _wait(pid)
        if tracer is not None:
            tracer.communicate()
        if status is None:
            return "hung"
        if os.WIFSIGNALED(status):
            return "killed"
        said = {line[0] for line in self._ledger.lines()}
        return "done" if "done" in said else "broke" if "undeclared" in said else "refused"

    def _child(
        self, operation: Operation, folder: Path, fault: tuple[str, int, str] | None, ready: int, gate: int
    ) -> None:
        ledger = self._ledger
        try:
            tool: Any = (
                syscalls_shim.ShimTool(ledger, fault=fault) if self._tool == "shim" else syscalls_strace.StraceTool()
            )
            stage = Stage(Home(folder / "home"), folder / "public", ledger, tool)
            made = operation.ready(stage)
            os.write(ready, b"!")
            os.read(gate, 1)
            if self._tool == "shim":
                tool.start()
            for _ in range(TRIES):
                try:
                    operation.run(stage, made)
                except operation.declared as error:
                    ledger.note("error", type(error).__name__, error)
                else:
                    ledger.note("done")
                    break
        except BaseException as error:
            where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            ledger.note("undeclared", f"{type(error).__name__}:", f"{error} at {' '.join(where[-5:])}")

    # The child that judges --------------------------------------------------------------------------------------

    def _judge(self, operation: Operation, folder: Path, lines: list[list[str]]) -> list[tuple[str, str]]:
        """In a process of its own, as whoever comes next would be."""
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            broken = []
            try:
                os.close(receive)
                known = json.loads((folder / "manifest").read_text())
                for part in (judge_publication, judge_home):
                    try:
                        broken += part(operation, folder, known, lines, self._prepared)
                    except BaseException as error:
                        where = [
                            f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
                        ]
                        kind = "log not whole" if isinstance(error, AssertionError) else "home not usable"
                        broken.append((kind, f"{type(error).__name__}: {error} at {' '.join(where[-6:])}"))
                with os.fdopen(send, "w") as file:
                    json.dump(broken, file)
            finally:
                os._exit(0)
        os.close(send)
        with os.fdopen(receive) as file:
            said = file.read()
        os.waitpid(pid, 0)
        return [(kind, text) for kind, text in json.loads(said)] if said else [("home not usable", "the judge died")]


def _wait(pid: int) -> int | None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.0005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


# Judging ---------------------------------------------------------------------------------------------------------


def check_durability(events: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    """A call is sent when its segment is synced since its last write; a segment whose sync failed is left alone."""
    state: dict[str, str] = {}
    broken = []
    for kind, segment, succeeded in events:
        if kind == "sent":
            if state.get(segment) != "synced":
                broken.append(("sent before durable", f"segment {segment} is {state.get(segment)}"))
        elif kind == "write":
            if state.get(segment) == "retired":
                broken.append(("written after a failed sync", segment))
            else:
                state[segment] = "written"
        elif state.get(segment) != "retired":
            state[segment] = "synced" if succeeded else "retired"
    return broken


def judge_home(
    operation: Operation, folder: Path, known: dict[str, Any], lines: list[list[str]], _: Path
) -> list[tuple[str, str]]:
    """Go on with the home as if nothing had been, then hold its log against the ledger."""
    home = Home(folder / "home")
    home.ensure()
    spool = new_spool(home)
    after = write_calls(spool, 1)
    spool.end(closing=True)
    del spool
    entries = drain(home)
    broken = []

    said: dict[str, set[str]] = {}
    for line in lines:
        said.setdefault(line[0], set()).update(line[1:2])
    intents = Counter(entry["id"] for entry in of_kind(entries, "call.intent"))
    outcomes = Counter(entry["id"] for entry in of_kind(entries, "call.outcome"))
    costs = Counter(entry["id"] for entry in of_kind(entries, "call.cost"))
    ends = statuses(entries)

    for call in [*said.get("intent", ()), *known["ends"], *after]:
        if intents[call] != 1:
            broken.append(("doubled" if intents[call] else "acknowledged lost", f"intent {call}"))
    expected = {**known["ends"], **dict.fromkeys([*said.get("outcome", ()), *after], "success")}
    for call, status in expected.items():
        if ends.get(call) != status:
            broken.append(("acknowledged lost", f"outcome {call} is {ends.get(call)}, not {status}"))
    for call, count in (outcomes + costs).items():
        if outcomes[call] > 1 or costs[call] > 1:
            broken.append(("doubled", f"{count} outcomes or costs of {call}"))
    for call in said.get("cost", ()):
        if not costs[call]:
            broken.append(("acknowledged lost", f"cost {call}"))
    for call in intents:
        if outcomes[call] == 0:
            broken.append(("acknowledged lost", f"call {call} has no end"))
        elif call not in said.get("intent", ()) and call in said.get("try", ()) and ends[call] != "unknown":
            broken.append(("log not whole", f"{call} was refused and is {ends[call]}"))
    names = Counter(entry["id"] for entry in entries if entry["kind"] in {"log.opened", "log.closed", "log.config"})
    broken += [("doubled", f"log entry {name}") for name, count in names.items() if count > 1]

    # What waited in memory when the process ended is a loss that must be said, as what its writer had counted before.
    due = known["losses"]
    due += sum(ends.get(call) == "unknown" for call in said.get("waits", ()))
    losses = sum(entry["count"] for entry in of_kind(entries, "log.loss"))
    if losses > due:
        broken.append(("loss said without one", f"{losses} said, {due} known"))
    elif losses < due:
        broken.append(("loss not said", f"{losses} said, {due} known"))
    if len(of_kind(entries, "log.unreadable")) != known["unreadable"]:
        broken.append(("log not whole", f"{len(of_kind(entries, 'log.unreadable'))} unreadable"))
    for entry in of_kind(entries, "log.unreadable"):
        if (home.quarantine_dir / entry["frame_digest"]).stat().st_size != entry["frame_bytes"]:
            broken.append(("log not whole", "a quarantined frame is not what the entry says"))

    subjects = sorted({entry["subject"] for entry in of_kind(entries, "call.intent") if entry.get("subject")})
    with Vault.open(home.vault_path, read_only=True) as vault:
        unknown = set(subjects) - set(vault.users(subjects))
    if unknown:
        broken.append(("log not whole", f"the vault does not know who {unknown} is"))

    left = [path.name for path in home.spool_dir.glob("*.seg")]
    begun = {path.stem for path in home.spool_dir.glob("*.new")}
    left += [path.name for path in home.state_dir.iterdir() if path.name not in begun]
    if left:
        broken.append(("home not usable", f"not deleted: {left}"))
    projection = Projection.open(home.journal_path, home.reports_path)
    projection.follow()
    projection.close()
    report = verify_home(home)
    if report.verdict != ("incomplete" if known["unreadable"] or losses else "proven"):
        broken.append(("not proven", f"{report.verdict}: {report.reason} {report.findings}"))
    return broken


def judge_publication(
    operation: Operation, folder: Path, known: dict[str, Any], _: list[list[str]], prepared: Path
) -> list[tuple[str, str]]:
    """Whatever checkpoint stands there, all it speaks of is there as it must be; and publishing again completes it."""
    if not operation.name.startswith("publish"):
        return []
    from openrouter_audit.cli.publish import publish_home

    public = folder / "public"
    half, whole = files_of(prepared / "published-half"), files_of(prepared / "published-whole")
    there = files_of(public) if public.exists() else {}
    if "checkpoint" in there:
        reference = next((r for r in (half, whole) if r["checkpoint"] == there["checkpoint"]), None)
        if reference is None:
            return [("publication not readable", "a checkpoint that was never signed")]
        wrong = [name for name, data in reference.items() if there.get(name) != data]
        if wrong:
            return [("publication not readable", f"under its checkpoint: {wrong}")]
    publish_home(Home(folder / "home"), public)
    there = files_of(public)
    wrong = [name for name, data in whole.items() if there.get(name) != data]
    return [("publication not readable", f"after publishing again: {wrong}")] if wrong else []


# Choosing and playing --------------------------------------------------------------------------------------------


def sample(points: list[Point], count: int, seed: int) -> list[Point]:
    """So many points, all where 0; each fault of each call to each kind of file in turn, and at random among its like."""
    chance = random.Random(seed)
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in sorted(points):
        groups.setdefault((point.operation, point.call, point.file, point.fault), []).append(point)
    for group in groups.values():
        chance.shuffle(group)
    order = list(groups.values())
    chance.shuffle(order)
    chosen: list[Point] = []
    while any(order):
        chosen += [group.pop() for group in order if group]
    return chosen[: count or None]


def play(
    tool: str, *, seed: int, points: int, part: int = 0, parts: int = 1, operations: str = "", only: str = ""
) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        theatre = Theatre(tool, Path(folder))
        if only:
            operation, call, number, fault = only.split("/")
            yield asdict(theatre.play(Point(operation, call, int(number), fault)))
            return
        existing = theatre.points(operations.split(",") if operations else OPERATIONS)
        yield {"points": len(existing)}
        for point in sample(existing, points, seed)[part::parts]:
            yield asdict(theatre.play(point))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("tool", choices=["strace", "shim"])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--points", type=int, default=0)
    options.add_argument("--part", type=int, default=0)
    options.add_argument("--parts", type=int, default=1)
    options.add_argument("--operations", default="")
    options.add_argument("--only", default="")
    for line in play(**vars(options.parse_args())):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())

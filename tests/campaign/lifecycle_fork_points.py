"""
A fork at every line, or every bytecode, of the spool; run by test_lifecycle_fork.py in a process of its own.

Usage: python -m tests.campaign.lifecycle_fork_points HOME GRAIN EVERY SEED. GRAIN is `line` or `opcode`; EVERY takes one
point in so many, a random one of each stretch.

A call is written with a trace function on the spool's own code, which forks when the n-th line begins. Three operations
are traced: an append to a segment that is there, an append that has to make one, and a strict append with its sync. Four
things are done with the fork:

- `leaves`: the child does what a child in a signal handler does: it records calls of its own and ends.
- `goes on`: it returns from the handler into the interrupted write, finishes it and records on. The call is the parent's.
- `both`: first the one, then the other.
- `thread`: the writer is another thread, which stands at that line while this one forks. It does not exist in the child.

In each of them the child must be mute for the calls it inherited and hold no descriptor of the parent's segments (their
locks would outlive the parent); what both record must be in the log once. The output is one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.campaign.lifecycle_tools import Acknowledgements, acknowledged_calls, everything, prove
from tests.journal.homes import an_intent, an_outcome, new_spool

from openrouter_audit.errors import OpenRouterAuditError
from openrouter_audit.journal import forks
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.spool import Segment, Spool

_TRACED = ("spool.py", "segments.py", "sealing.py", "writer_state.py", "files.py", "backlog.py", "reserve.py")
_LOOPS = ("<genexpr>", "_size_of", "pour_into")
"""Run for each file of the spool, or each counter: the same point again and again."""
_SPOKE, _HELD, _FAILED = 1, 2, 4
"""Exit codes of a child, added: it recorded for its parent, it holds a descriptor of its, it met an exception."""
_OPCODES_BEFORE = 16
"""Bytecodes of the first lines of `write`, before it knows which process it is in: forked there, the child begins a call."""
_DRAIN_EVERY = 100
"""Points between two looks of a sequencer: the spool stays small, and looks at it cheap."""
OPERATIONS: dict[str, dict[str, Any]] = {
    "append": {},
    "open": {"rotate_bytes": 1},
    "strict": {"mode": "strict", "rotate_bytes": 3000},
}
VARIANTS = ("leaves", "goes on", "both", "thread")


class Halt:
    """A trace function that calls `then` when the n-th line (or bytecode) of the spool begins, once."""

    def __init__(self, at: int, then: Callable[[], None], *, opcodes: bool) -> None:
        self._at, self._then, self._opcodes = at, then, opcodes
        self._seen = 0
        self.place: str | None = None
        """Where it was."""

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if self.place is not None or "openrouter_audit" not in path or not path.endswith(_TRACED):
            return None
        if frame.f_code.co_name in _LOOPS:
            return None
        frame.f_trace_opcodes = self._opcodes
        return self._local

    def _local(self, frame: FrameType, event: str, _: object) -> Any:
        if self.place is None and event == ("opcode" if self._opcodes else "line"):
            self._seen += 1
            if self._seen == self._at:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                self._then()
        return self._local


def inherited_descriptors(spool: Spool, folder: Path) -> list[str]:
    """Files of the spool that this process has open, and that are none of its own segments."""
    own = {segment.name for segment in list(spool._segments) if segment.pid == os.getpid()}
    found = []
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            target = os.readlink(f"/proc/self/fd/{name}").removesuffix(" (deleted)")
        except FileNotFoundError:
            continue
        if target.startswith(f"{folder}/") and Path(target).stem not in own:
            found.append(target)
    return found


def can_fork() -> bool:
    """Whether no other thread stands in a `no_fork`."""
    free = forks._lock.acquire(blocking=False)
    if free:
        forks._lock.release()
    return free


class Campaign:
    """Forks at one point after the other, and remembers what each did."""

    def __init__(self, home: Home, *, opcodes: bool) -> None:
        self.home = home
        self.opcodes = opcodes
        self.acknowledge = Acknowledgements(home.path / "acknowledged")
        self.points = 0
        self.places: dict[str, str] = {}
        """By the id of the call: where its writing was interrupted."""
        self.found: dict[str, list[str]] = {"spoke": [], "held": [], "failed": [], "refused": []}

    def run(self, operation: str, variant: str, at: int) -> bool:
        """Fork at point `at` of an operation; False where it has no so many."""
        spool = new_spool(self.home, **OPERATIONS[operation])
        before = an_intent()
        token = spool.write(before)
        self.acknowledge.say("i", before)
        intent = an_intent()
        children: list[int] = []
        in_child = False

        def fork() -> None:
            nonlocal in_child
            child = os.fork()
            if child:
                children.append(child)
                return
            in_child = True
            if variant != "goes on":
                self._as_child(spool, before, token, leave=variant != "both")

        def write() -> None:
            halt = Halt(at, stand if variant == "thread" else fork, opcodes=self.opcodes)
            mine = last = ended = None
            refused = False
            sys.settrace(halt)
            try:
                mine = spool.write(intent)
                if spool.mode == "strict" and mine is not None:
                    spool.sync(mine)
                if not in_child:
                    self.acknowledge.say("i", intent)
                ended = an_outcome(intent)
                last = spool.write(ended, follows=mine)
            except OpenRouterAuditError:
                refused = True  # in a child it may be: then nothing is sent
            finally:
                sys.settrace(None)
            if in_child:
                spoke = any(isinstance(each, Segment) and each.pid == os.getpid() for each in (mine, last))
                self._as_child(spool, before, token, leave=True, spoke=spoke)
            if halt.place is not None:
                self.places[intent.id] = f"{operation}, {variant}, {halt.place}"
            if refused or ended is None:
                self.found["refused"].append(str(self.places.get(intent.id)))
            else:
                self.acknowledge.say("o", ended)

        stands, go = threading.Event(), threading.Event()

        def stand() -> None:
            stands.set()
            go.wait()

        try:
            if variant == "thread":

                def run_and_tell() -> None:
                    try:
                        write()
                    finally:
                        stands.set()

                writer = threading.Thread(target=run_and_tell)
                writer.start()
                stands.wait()
                if writer.is_alive():
                    if not can_fork():
                        go.set()  # the fork waits until the writer has left what may not be forked in
                    fork()
                go.set()
                writer.join()
            else:
                write()
        except BaseException:
            if in_child:
                os._exit(_FAILED)
            raise
        ended = an_outcome(before)
        spool.write(ended, follows=token)
        self.acknowledge.say("o", ended)
        place = self.places.get(intent.id)
        for child in children:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for bit, name in ((_SPOKE, "spoke"), (_HELD, "held"), (_FAILED, "failed")):
                if code < 0 or code & bit:
                    self.found[name].append(str(place))
        self.points += place is not None
        spool.end(closing=True)
        if self.points % _DRAIN_EVERY == 0:
            everything(self.home)
        return place is not None

    def _as_child(self, spool: Spool, before: Any, token: Any, *, leave: bool, spoke: bool = False) -> None:
        code = _SPOKE if spoke else 0
        try:
            if spool.write(an_outcome(before, status="error"), follows=token) is not None:
                code |= _SPOKE
            acknowledged_calls(spool, 1, self.acknowledge)
            if leave and inherited_descriptors(spool, self.home.spool_dir):
                code |= _HELD
        except BaseException:
            traceback.print_exc()
            code |= _FAILED
        if leave or code:
            os._exit(code)


def main(home: Home, grain: str, every: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    campaign = Campaign(home, opcodes=grain == "opcode")
    for operation in OPERATIONS:
        for variant in VARIANTS:
            stretch = 0
            first = 1 if variant in {"leaves", "thread"} else 2 if grain == "line" else _OPCODES_BEFORE
            while campaign.run(operation, variant, first + stretch * every + rng.randrange(every)):
                stretch += 1
    proof = prove(home, campaign.acknowledge.read())
    return {
        "points": campaign.points,
        "entries": len(proof.entries),
        "broken": {
            **proof.broken,
            "spoke for the parent": len(campaign.found["spoke"]),
            "held a parent's lock": len(campaign.found["held"]),
            "failed": len(campaign.found["failed"]),
            "refused": len(campaign.found["refused"]),
        },
        "where": {
            **campaign.found,
            "doubled": sorted({campaign.places.get(call, call) for call in proof.doubled}),
            "lost": sorted({campaign.places.get(call, call) for call in proof.lost}),
        },
    }


if __name__ == "__main__":
    print(json.dumps(main(Home(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))

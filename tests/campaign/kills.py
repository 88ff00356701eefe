"""
The kill campaign: ten kinds of process on one home, and whoever chance points at is killed with SIGKILL and started again.

Usage: python -m tests.campaign.kills FOLDER SEED KILLS. The last line of its output is a JSON object: what broke, what was
counted, and which operations the kills hit.

About half of the kills come at random instants. The others are aimed, because an instant chosen blindly meets the operations
that take most of the time, and those that take a hundredth of a millisecond never: the harness draws an operation, those
hit seldom so far before others, waits until its victim is in it, waits a random while, and kills; or the victim itself does it at a line that was drawn. What was really hit is read after death (kills_marks.py), never
assumed. A lease holder is stopped with SIGSTOP now and then, others go on in its place, and it is either killed or let
loose again, to write on from a state that is long gone.

Under FOLDER: the home, the published folder, homes that are being made.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.campaign import kills_marks as doing
from tests.campaign import kills_victims as victims
from tests.campaign.kills_checks import Acknowledged, check
from tests.campaign.kills_marks import Marks
from tests.campaign.kills_victims import Place

from openrouter_audit.journal.home import Home

LONGEST_LIFE_S: Final = 0.15
"""Between two strikes, at most: with as many roles a process lives for something like a second."""
_AIM_S: Final = 0.08
"""How long a victim is watched until it does what the kill was meant for."""
_ARMED_S: Final = 0.3
_START_S: Final = 60.0
_LONGEST_KILL_S: Final = 1.5
"""Ten times what a kill takes: a campaign that hangs ends its processes itself, also those that are stopped."""
_Role = Callable[[Place], None]
_SEQUENCING: Final = (doing.OPENING, doing.DRAIN, doing.VAULT, doing.COMMIT, doing.CHECKPOINT, doing.DELETION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    run: _Role
    weight: int
    """How often it is chosen, beside the others."""
    aims: tuple[str, ...]


ROLES: Final = {
    "threads": Role(run=victims.threads, weight=3, aims=(doing.APPEND, doing.ROTATION)),
    "strict": Role(run=partial(victims.threads, mode="strict"), weight=3, aims=(doing.STRICT_APPEND, doing.ROTATION)),
    "tasks": Role(run=victims.tasks, weight=2, aims=(doing.APPEND, doing.ROTATION)),
    "forks": Role(run=victims.forks, weight=3, aims=(doing.APPEND, doing.ROTATION)),
    "application": Role(
        run=victims.application, weight=3, aims=(doing.APPEND, doing.ASKING, doing.SETTLE, doing.PROJECTION)
    ),
    "sequencer": Role(run=victims.leased_sequencer, weight=3, aims=(*_SEQUENCING, doing.PROJECTION)),
    "rival": Role(run=victims.leased_sequencer, weight=2, aims=(*_SEQUENCING, doing.WAITS_FOR_LEASE)),
    "unleased": Role(run=victims.unleased_sequencer, weight=3, aims=(*_SEQUENCING, doing.PROJECTION)),
    "publisher": Role(run=victims.publisher, weight=2, aims=(doing.PUBLISH,)),
    "homes": Role(run=victims.home_maker, weight=1, aims=(doing.HOME,)),
}
_SEQUENCERS: Final = ("sequencer", "rival", "application")


@dataclass(slots=True)
class Victim:
    """A running process and its forked children."""

    pid: int
    place: Place
    heard: int
    """Our end of its pipe."""
    rest: bytes = b""
    kids: dict[int, int] = field(default_factory=dict)
    """Forked children by number: their pids."""
    stopped_until: float | None = None
    status: int | None = None
    """How it ended, once that was asked for; then its pid is nobody's."""

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.status is None:
            _, self.status = os.waitpid(self.pid, 0)
        return self.status


@dataclass(slots=True)
class Tally:
    """What the campaign did."""

    kills: int = 0
    hits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(doing.OPERATIONS, 0))
    """By operation: kills that came while it was under way. One kill may hit several, in several threads."""
    idle: int = 0
    """Kills that hit none."""
    by_role: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*ROLES, "forked child"), 0))
    stopped: int = 0
    continued: int = 0
    copies: int = 0
    """Times a stranger read the published folder and it held."""
    complaints: list[str] = field(default_factory=list)
    """Ended by itself, an error that may not be, a published folder that did not verify."""


class Campaign:
    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.home = Home(folder / "home")
        self.home.ensure()
        victims.write_settings(self.home)
        self.published = folder / "published"
        (folder / "homes").mkdir()
        names = [*ROLES, "emulator", "reader"]
        self.rows = {name: number * (victims.KIDS + 1) for number, name in enumerate(names)}
        self.marks = Marks(len(names) * (victims.KIDS + 1))
        self.url = victims.free_url()
        self.selector = selectors.DefaultSelector()
        self.running: dict[str, Victim] = {}
        self.acknowledged = Acknowledged()
        self.tally = Tally()

    def run(self, kills: int) -> None:
        self.start("emulator", victims.emulator)
        victims.wait_for(self.url)
        gc.freeze()  # what is here now is never collected: forks share its pages
        self.start("reader", victims.folder_reader)
        for name, role in ROLES.items():
            self.start(name, role.run)
        self.listen(1.0)
        until = time.monotonic() + _START_S + kills * _LONGEST_KILL_S
        while self.tally.kills < kills or (min(self.tally.hits.values()) < 1 and self.tally.kills < 2 * kills):
            self.listen(LONGEST_LIFE_S * self.rng.random())
            self.wake_stopped()
            self.strike()
            if time.monotonic() > until:
                raise TimeoutError(f"{self.tally.kills} kills of {kills}, and the time is up")
        for name in sorted(self.running, key=list(self.rows).index):  # the application before its OpenRouter
            self.end(name)

    # Choosing ---------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        chance = self.rng.random()
        if chance < 0.1:
            self.stop_lease_holder()
        elif chance < 0.2 and self.running["forks"].kids:
            self.kill_kid()
        elif chance < 0.25:  # several at the same instant
            self.kill_and_restart(*self.rng.sample(list(ROLES), self.rng.randrange(2, len(ROLES) + 1)))
        elif chance < 0.5:
            self.kill_and_restart(*self.rng.choices(list(ROLES), [role.weight for role in ROLES.values()]))
        else:
            pairs = [(name, operation) for name, role in ROLES.items() for operation in role.aims]
            seldom = [1 / (1 + self.tally.hits[operation]) for _, operation in pairs]
            ((name, operation),) = self.rng.choices(pairs, seldom)
            (self.arm if self.rng.random() < 0.6 else self.aim)(name, operation)
            self.kill_and_restart(name)

    def arm(self, name: str, operation: str) -> None:
        """Have a process kill itself at some line of an operation; in vain where it does not come to it."""
        victim, until = self.running[name], time.monotonic() + _ARMED_S
        self.marks.arm(victim.place.row, operation, int(10 ** self.rng.uniform(0, 3.5)))
        while not victim.has_ended() and time.monotonic() < until:
            self.listen(0.002)

    def aim(self, name: str, operation: str) -> None:
        """Wait until a process is in an operation, and then for a part of it; in vain where it does not come to it."""
        row, until = self.running[name].place.row, time.monotonic() + _AIM_S
        delay = 0.0 if self.rng.random() < 0.5 else 10 ** self.rng.uniform(-5.5, -2.5)
        while time.monotonic() < until:
            self.listen(0)
            for _ in range(1000):
                if self.marks.is_in(row, operation):
                    end = time.perf_counter() + delay
                    while time.perf_counter() < end:
                        pass
                    return

    # Striking ---------------------------------------------------------------------------------------------------

    def stop_lease_holder(self) -> None:
        holders = [
            name
            for name in _SEQUENCERS
            if self.running[name].stopped_until is None
            and self.marks.is_in(self.running[name].place.row, doing.HOLDS_LEASE)
        ]
        if not holders:
            return
        if self.rng.random() < 0.7:
            self.aim(holders[0], self.rng.choice(_SEQUENCING[1:]))
        victim = self.running[holders[0]]
        os.kill(victim.pid, signal.SIGSTOP)
        victim.stopped_until = time.monotonic() + self.rng.uniform(0.01, 0.6)
        self.tally.stopped += 1

    def wake_stopped(self) -> None:
        for name, victim in list(self.running.items()):
            if victim.stopped_until is not None and time.monotonic() >= victim.stopped_until:
                if self.rng.random() < 0.5:
                    victim.stopped_until = None
                    os.kill(victim.pid, signal.SIGCONT)
                    self.tally.continued += 1
                else:
                    self.kill_and_restart(name)

    def kill_kid(self) -> None:
        """One forked child dies; its parent and its brother go on."""
        victim = self.running["forks"]
        number = self.rng.choice(list(victim.kids))
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself
            os.kill(victim.kids.pop(number), signal.SIGKILL)
            self.note("forked child", victim.place.row + number)

    def kill_and_restart(self, *names: str) -> None:
        for name in names:
            self.running[name].kill()
        for name in names:
            self.bury(name)
        for name in names:
            self.start(name, ROLES[name].run)

    def bury(self, name: str) -> None:
        """Wait for a process that was killed, read what it was in and what it said last, and end its orphans."""
        victim = self.running[name]
        status = victim.wait()
        if not os.WIFSIGNALED(status):
            self.tally.complaints.append(f"{name} ended by itself with {status}")
        if victim.stopped_until is not None:
            self.tally.hits[doing.STOPPED] += 1
        self.note(name, victim.place.row)
        self.hear_out(victim)
        if victim.kids and self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0, 0.02))  # orphans write on for a while
            self.hear_out(victim)
        for number, pid in victim.kids.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.note("forked child", victim.place.row + number)
        self.close(victim)
        del self.running[name]

    def note(self, name: str, row: int) -> None:
        hit = self.marks.left(row)
        self.tally.kills += 1
        self.tally.by_role[name] += 1
        for operation in hit:
            self.tally.hits[operation] += 1
        self.tally.idle += not set(hit) - {doing.HOLDS_LEASE, doing.FORKING, doing.FORKED}

    def end(self, name: str) -> None:
        victim = self.running.pop(name)
        victim.kill()
        victim.wait()
        for pid in victim.kids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.close(victim)

    # Listening --------------------------------------------------------------------------------------------------

    def start(self, name: str, run: _Role) -> None:
        heard, pipe = os.pipe()
        place = Place(
            home=self.home,
            published=self.published,
            url=self.url,
            marks=self.marks,
            row=self.rows[name],
            seed=self.rng.randrange(2**32),
            pipe=pipe,
        )
        for row in range(place.row, place.row + victims.KIDS + 1):
            self.marks.clear(row)
        pid = victims.spawn(run, place)
        os.close(pipe)
        os.set_blocking(heard, False)
        self.running[name] = victim = Victim(pid, place, heard)
        self.selector.register(heard, selectors.EVENT_READ, victim)

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            for key, _ in self.selector.select(max(0.0, until - time.monotonic())):
                if not self.hear_out(key.data):
                    self.selector.unregister(key.fd)  # it ended by itself: heard of when it is buried
            if time.monotonic() >= until:
                return

    def hear_out(self, victim: Victim) -> bool:
        """Read all that was said until now; False where nobody is left to say anything."""
        while True:
            try:
                data = os.read(victim.heard, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, victim.rest = (victim.rest + data).split(b"\n")
            for line in lines:
                self.hear(victim, line.decode(errors="replace"))

    def hear(self, victim: Victim, line: str) -> None:
        kind, text = line[0], line[1:]
        if kind == "+":
            number, pid = text.split()
            victim.kids[int(number)] = int(pid)
        elif kind == "-":
            number, pid = text.split()
            if victim.kids.get(int(number)) == int(pid):
                del victim.kids[int(number)]
        elif kind == "v":
            self.tally.copies += 1
        elif kind == "!":
            self.tally.complaints.append(text)
        else:
            self.acknowledged.hear(kind, text)

    def close(self, victim: Victim) -> None:
        """To the end of the pipe: then every process that could still write to it is dead."""
        os.set_blocking(victim.heard, True)
        while self.hear_out(victim):
            pass
        with contextlib.suppress(KeyError):
            self.selector.unregister(victim.heard)
        os.close(victim.heard)


def main(folder: Path, seed: int, kills: int) -> dict[str, object]:
    campaign = Campaign(folder, seed)
    began = time.monotonic()
    try:
        campaign.run(kills)
    finally:
        for name in list(campaign.running):
            campaign.end(name)
    killing_s = time.monotonic() - began
    verdict = check(campaign.home, campaign.published, campaign.acknowledged)
    return {
        "verdict": asdict(verdict),
        "tally": asdict(campaign.tally),
        "acknowledged": campaign.acknowledged.records,
        "killing_s": round(killing_s, 1),
        "checking_s": round(time.monotonic() - began - killing_s, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))

"""
What each campaign of faults found, kept as one small JSON file per campaign and shown as one table.

A campaign is a test that injects faults at many points and counts what broke. It calls `record` once, at its end, also
when something did break. `python -m tests.campaign.results` prints the table of the last run;
`dev.py test --long` writes it into docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "reliability"


@dataclass(slots=True, kw_only=True)
class Result:
    """A row of the table."""

    campaign: str
    """Short name in words of a file name, also the order of the table: `1-kills`, `2-syscalls-strace`."""
    what: str
    """What was done to it, as one phrase: `SIGKILL of 4 writers and the sequencer at random instants`."""
    points: int = 0
    """How many faults were injected."""
    unit: str = "faults"
    broken: dict[str, int] = field(default_factory=dict)
    """What was counted, each of which must be 0: `{"acknowledged lost": 0, "doubled": 0}`."""
    figures: dict[str, str] = field(default_factory=dict)
    """What is measured and may be anything: `{"calls acknowledged": "78,662"}`."""
    seed: int | None = None
    again: str = ""
    """The command that does the same again, with the seed."""
    seconds: float = 0.0


def record(result: Result) -> None:
    """Keep a result; the newest of each campaign counts."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / f".{result.campaign}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(result), indent=1) + "\n")
    partial.replace(FOLDER / f"{result.campaign}.json")


@contextmanager
def recorded(result: Result) -> Iterator[Result]:
    """Time a campaign and keep what it found, also when it ends by an exception."""
    started = time.monotonic()
    try:
        yield result
    finally:
        result.seconds = round(time.monotonic() - started, 1)
        record(result)


def results() -> list[Result]:
    return [Result(**json.loads(path.read_text())) for path in sorted(FOLDER.glob("[!.]*.json"))]


def table() -> str:
    """All results as Markdown."""
    lines = ["| campaign | points | broken | measured | time | again |", "|---|---|---|---|---|---|"]
    for result in results():
        broken = ", ".join(f"{name} {count:,}" for name, count in result.broken.items())
        figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
        again = f"`{result.again}`" if result.again else ""
        lines.append(
            f"| {result.what} | {result.points:,} {result.unit} | {broken} | {figures} | {result.seconds:,.0f} s | {again} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

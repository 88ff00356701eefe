"""
What each campaign of faults found, kept as one small JSON file per campaign and shown as one table.

A campaign is a test that injects faults at many points and counts what broke. It calls `record` once, at its end, also
when something did break. `dev.py test` begins with none and prints the table at its end; with `--long` it also puts the
table into docs/reliability.md.

    python -m tests.campaign.results [--write]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- begin: made by dev.py test --long -->", "<!-- end -->"


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
    lines = ["| what was done | points | what broke | measured | time | again |", "|---|---|---|---|---|---|"]
    for result in results():
        broken = ", ".join(f"{name} **{count:,}**" for name, count in result.broken.items())
        figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
        again = f"`{result.again}`" if result.again else ""
        lines.append(
            f"| {result.what} | {result.points:,} {result.unit} | {broken} | {figures} | {result.seconds:,.0f} s | {again} |"
        )
    return "\n".join(lines)


def write_page() -> None:
    """Put the table, the day and the machine into docs/reliability.md, between its two marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    day = dt.datetime.now(dt.UTC).date()
    took = sum(result.seconds for result in results()) / 60
    told = (
        f"Last run: {day}, Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores;"
        f" the campaigns took {took:,.0f} minutes, added up."
    )
    PAGE.write_text(f"{before}{BEGIN}\n{told}\n\n{table()}\n{END}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the table of the campaigns of faults")
    parser.add_argument("--write", action="store_true", help="into docs/reliability.md")
    if parser.parse_args().write:
        write_page()
    if results():
        print(table())

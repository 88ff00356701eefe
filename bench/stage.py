"""
The other processes of a measurement: a server that answers from memory, and the sequencer of a home.

Both run on the other core than what is measured, and end with the block they were started for.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import inproc

CONTEXT = multiprocessing.get_context("spawn")


@contextmanager
def serving(target: Callable[..., None] = inproc.serve, *arguments: object) -> Iterator[int]:
    """The port of a server on the loopback; `target` is given a pipe that it says its port through."""
    here, there = CONTEXT.Pipe()
    server = CONTEXT.Process(target=target, args=(there, *arguments), daemon=True)
    server.start()
    try:
        yield here.recv()
    finally:
        server.terminate()
        server.join(10)


@contextmanager
def sequencing(home: Path) -> Iterator[None]:
    """A sequencer in a process of its own; at the end of the block everything that was spooled is in the journal."""
    stop = CONTEXT.Event()
    sequencer = CONTEXT.Process(target=inproc.sequence, args=(str(home), stop), daemon=True)
    sequencer.start()
    try:
        yield
    finally:
        stop.set()
        sequencer.join(60)


def compiled_into(folder: Path) -> dict[str, str]:
    """
    An environment whose processes find modules compiled, from the second one on.

    Wherever they come from: to compile what others have compiled long ago is no price of theirs or ours.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder)}


def recorded_calls(home: Path) -> int:
    """Calls that ended well in the journal of a home that nobody writes to any more."""
    from openrouter_audit.journal.home import Home
    from openrouter_audit.journal.sequencer import Sequencer
    from openrouter_audit.reports.projection import Projection

    located = Home.locate(home)
    sequencer = Sequencer(located)
    sequencer.drain()
    sequencer.close()
    projection = Projection.open(located.journal_path, located.reports_path)
    projection.follow()
    projection.close()

    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(located.reports_path)) as reports:
        return int(reports.execute("SELECT count(*) FROM calls WHERE status = 'success'").fetchone()[0])

"""
The main job, end to end, without a key and without a network: `python3 dev.py demo`.

Exit 0 only if every line with a mark says ok.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from demo import story
from demo.screen import Screen


def play(screen: Screen, home: Path, work: Path, url: str) -> bool:
    stage = story.Stage(screen, home, work, url)
    held = True
    for title, step in (
        ("1  Applications call models through OpenRouter, and are recorded", story.record_traffic),
        ("2  One of them is killed", story.kill_one),
        ("3  What was each call really billed?", story.settle),
        ("4  Two sets of books", story.compare),
        ("5  Reports", story.report),
        ("6  Proof", story.prove),
        ("7  Four attacks on copies", story.attack),
    ):
        screen.title(title)
        held &= step(stage)
    screen.title("What this does not prove")
    screen.say(
        "  That nothing went round us: a call by a process without install() is in the books of OpenRouter and in no log"
        " of ours.\n  That records are true when they are written, or that the owner of this machine, who has the key,"
        " wrote only one history:\n  that takes a witness elsewhere."
    )
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    screen = Screen()
    home = (options.home or Path(tempfile.mkdtemp(prefix="openrouter-audit-demo-")) / "home").absolute()
    if home.exists() and any(home.iterdir()):
        parser.error(f"{home} is not empty: the demo compares a new log with new books")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work, story.emulated_openrouter() as url:
        screen.say(f"OpenRouter is emulated at {url}; the log is recorded into {home}")
        held = play(screen, home, Path(work), url)
        screen.title("Yours to look at")
        for words in ("report summary", "tail -n 5", "verify"):
            screen.say(f"  python3 dev.py exec -- openrouter-audit --home {home} {words}")
        screen.say(f"{'All of it held' if held else 'NOT all of it held'}, {time.monotonic() - started:.1f} s.")
        if not options.once and sys.stdout.isatty():
            screen.say(f"The emulator goes on answering at {url} until you press Ctrl-C.")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                signal.pause()
            except KeyboardInterrupt:
                screen.say("")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""
A process that makes one call and does not get to its end in peace: `python -m tests.endings.dying HOME URL FORM HOW`.

It prints `first` when it has the first piece of a stream. Whatever happens to it comes as a signal, while it waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import httpx2

import openrouter_audit


def say(word: str) -> None:
    os.write(1, word.encode() + b"\n")


def on_signal(*_: object) -> None:
    """While the call waits for bytes."""
    if how == "exit":
        os._exit(3)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # once
    child = os.fork()
    if not child:
        sys.exit(0)  # through the middle of the call, as the end of any interpreter
    assert (child, 0) == os.waitpid(child, 0)
    Path(home + ".forked").touch()


def stop(*_: object) -> None:
    raise SystemExit(4)


home, url, form, how = sys.argv[1:]
openrouter_audit.install(home, hosts=["127.0.0.1"])
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGUSR1, on_signal)
if how == "handled-term":
    signal.signal(signal.SIGTERM, stop)
client = httpx2.Client(trust_env=False, timeout=60)
request = client.build_request("POST", url, content=b'{"model":"openai/gpt-4.1-mini"}')
if form == "plain":
    say(str(len(client.send(request).content)))
else:
    response = client.send(request, stream=True)
    reading = response.iter_raw()
    size = len(next(reading))
    if how == "end":
        say("first")
    else:
        with contextlib.closing(response):
            say("first")
            say(str(size + sum(map(len, reading))))

"""
An OpenRouter on loopback: a real HTTP/1.1 server whose answers have the shapes of the recorded ones.

The way of one request, and the module of each step:

    wire       bytes of a connection -> `Request`, `Reply` -> bytes, paced and cut as asked
    desk       which route, which key, which answer
    script     what this one request was asked to show (header `X-Emulator`, or a queue)
    plan       which model serves the call, its tokens and its words, all derived from the seed
    catalogue  models, prices, and what a number of tokens costs, to the last digit
    chat, responses, embeddings, refusals    the payloads
    books      one row for every call, and the generation records behind it
    records    what GET /generation, /key and /models tell
    server     `FakeOpenRouter` (a thread) and `serve` (a process)

An interface of OpenRouter that is not emulated yet (messages, images, audio ...) becomes one payload module and one line
in the table of `desk`.

Deterministic: under one seed, equal requests in equal order give equal bytes. Ids and `created` come from the seed and the
number of the call, not from the clock: its first second is 2026-11-23T09:00:00Z and each call moves it on by one.
"""

from openrouter_audit.testing.emulator.plan import LatencyModel
from openrouter_audit.testing.emulator.script import UnknownSwitch
from openrouter_audit.testing.emulator.server import FakeOpenRouter, serve

__all__ = ["FakeOpenRouter", "LatencyModel", "UnknownSwitch", "serve"]

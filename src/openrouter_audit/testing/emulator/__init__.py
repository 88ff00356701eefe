"""
An OpenRouter on loopback: a real HTTP/1.1 server whose answers have the shapes of the recorded ones.

The way of one request, and the module of each step:

    wire       bytes of a connection -> `Request`; `Answer` -> bytes, paced and cut as asked
    calls      both of these, and which requests are calls
    desk       which route, which key, which answer; and what is booked in the end
    switches   all that a request can ask to be shown; script: what this one asks, by header `X-Emulator` or from the queue
    plan       which model serves the call, its tokens and its words, all derived from the seed
    catalogue  models, prices, and what a number of tokens costs, to the last digit
    chat, chat_stream, responses, messages, embeddings, tool_calls, refusals    the payloads
    books      one row for every call, and the generation records behind it
    records    what GET /generation, /key and /models tell
    server     `FakeOpenRouter` (a thread) and `serve` (a process)

An interface of OpenRouter that is not emulated yet (images, audio ...) becomes one payload module and one line
in the table of `calls`.

Deterministic: under one seed, equal requests in equal order give equal bytes. Ids and `created` come from the seed and the
number of the call, not from the clock: its first second is 2026-11-23T09:00:00Z and each call moves it on by one.
"""

from openrouter_audit.testing.emulator.plan import LatencyModel
from openrouter_audit.testing.emulator.server import FakeOpenRouter, serve
from openrouter_audit.testing.emulator.switches import UnknownSwitch

__all__ = ["FakeOpenRouter", "LatencyModel", "UnknownSwitch", "serve"]

"""
The kit of the campaign "hostile input": how valid examples are made malformed, and how a parser is held to its word.

Random bytes hardly get past the first byte of a parser. So every input begins as a valid example and is then damaged one
to four times: bits turned, bytes cut out or doubled, pieces of two examples joined, tokens (numbers, strings, words,
brackets) exchanged for nasty ones. Everything comes from one seed, so a campaign can be run again as it was; a failure
shows its input whole.

A parser is held to three things (issue 3, point 7): it raises only what it declares, one input costs at most one second
of this thread's own processor time (not of the clock on the wall: a busy machine is no fault of a parser), and all inputs
together leave the process at most 64 MiB larger.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.campaign.results import Result, recorded

MAX_CPU_S = 1.0
MAX_MEMORY = 64 * 1024 * 1024
COUNT = int(os.environ.get("HOSTILE_COUNT", "20000"))
LONG_COUNT = int(os.environ.get("HOSTILE_COUNT", "1000000"))
MAX_INPUT_BYTES = 64 * 1024
"""Random inputs stay below; what is larger is made by hand, in `test_hostile.py`."""
_MAX_SHOWN = 5

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.){0,200}"|-?[0-9][0-9.eE+-]*|\w+|[^\s\w]', re.DOTALL)

NASTY = (
    b"", b"\x00", b"\n", b"\r", b"\r\n", b"\n\n", b" ", b"\t", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\xf0\x9f\x92", b"\xe2\x80\xa8", b"\xe2\x80\x94 ", b"\x1b[2J", b"\x85", b"\xc2\xa0",
    b"0", b"-0", b"-1", b"1e400", b"1e-400", b"-1e999999999", b"0.1", b"9007199254740991", b"9007199254740992",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616",
    b"1" + b"0" * 400, b"9" * 5000, b"00", b"01", b"+1", b"0x10", b"1_000", b"\xd9\xa1\xd9\xa2", b"NaN", b"Infinity",
    b"-Infinity", b"nan", b"inf", b"null", b"true", b"false", b"none", b"None", b"[]", b"{}", b'""', b'"', b"\\", b"\\u0000",
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b'"\\x"', b"[" * 40, b"{" * 40, b"]" * 40, b'{"a":' * 40, b"[" * 2000,
    b'{"a":' * 2000, b'"' + b"a" * 300 + b'"', b'"' + b"\xc3\xa9" * 200 + b'"', b"a" * 2000, b"../../etc/passwd", b"/", b"//", b".",
    b"..", b"%00", b"%2e%2e%2f", b"+", b"=", b"==", b"====", b"A===", b"QR==", b"QQ=", b"\xd0\xb0", b"\xe2\x93\x90", b"\xef\xbc\x91",
    b"sk-or-v1-" + b"0123456789abcdef" * 4, b"${x}", b"'; DROP TABLE entries; --", b"<!--", b"\x7f", b"\xe2\x80\xae",
)  # fmt: skip
"""What breaks parsers elsewhere: ends of ranges, text that is no UTF-8, look-alikes, nesting, other spellings of a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """One parser under attack."""

    name: str
    """As the issue names it."""
    examples: Callable[[], Sequence[bytes]]
    """Valid inputs, made once."""
    parse: Callable[[bytes, random.Random], object]
    """Hand an input over and check what comes out: AssertionError where it is not what the parser promises."""
    declared: tuple[type[Exception], ...] = ()
    """What it may raise."""
    words: tuple[bytes, ...] = ()
    """Nasty words of its own format."""

    @property
    def slug(self) -> str:
        """Its name as file names and test ids have it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(slots=True)
class Tally:
    """What a run over one parser saw."""

    inputs: int = 0
    refused: int = 0
    """Inputs that were answered by a declared error; the others were parsed, or answered by None."""
    slowest_s: float = 0.0
    grown: int = 0
    faults: list[str] = field(default_factory=list)
    undeclared: int = 0
    slow: int = 0


class Mutator:
    """Makes malformed inputs of valid ones, the same ones for the same random numbers."""

    def __init__(self, examples: Sequence[bytes], rng: random.Random, words: Sequence[bytes] = ()) -> None:
        self._examples = list(examples)
        self._tokens = [[match.span() for match in _TOKEN.finditer(example)] for example in self._examples]
        self._rng = rng
        self._words = (*NASTY, *words, *words)  # a format's own words come twice as often

    def __call__(self) -> bytes:
        rng = self._rng
        chosen = int(rng.random() * len(self._examples))
        data = self._examples[chosen]
        tokens = self._tokens[chosen]
        if tokens and rng.random() < 0.5:
            start, end = tokens[int(rng.random() * len(tokens))]
            data = data[:start] + self._replacement(data[start:end]) + data[end:]
            if rng.random() < 0.6:
                return data
        for _ in range(1 + int(rng.random() * rng.random() * 4)):
            data = self._damage(data)
        return data[:MAX_INPUT_BYTES]

    def _replacement(self, token: bytes) -> bytes:
        rng = self._rng
        choice = rng.random()
        word = self._words[int(rng.random() * len(self._words))]
        if choice < 0.6:
            return word
        if choice < 0.7:
            return token * (2 + int(rng.random() * 3))
        if choice < 0.8:
            return b'"' + word + b'"'
        if choice < 0.9:
            return token[:-1] + word + token[-1:]
        return b""

    def _damage(self, data: bytes) -> bytes:
        rng = self._rng
        size = len(data)
        at = int(rng.random() * (size + 1))
        choice = int(rng.random() * 10)
        if choice == 0 or not size:
            return data[:at] + self._words[int(rng.random() * len(self._words))] + data[at:]
        at = min(at, size - 1)
        if choice <= 2:
            return data[:at] + bytes([data[at] ^ 1 << int(rng.random() * 8)]) + data[at + 1 :]
        if choice == 3:
            return data[:at] + bytes([int(rng.random() * 256)]) + data[at + 1 :]
        if choice == 4:
            return data[:at]
        length = 1 + int(rng.random() * rng.random() * min(size, 256))
        if choice == 5:
            return data[:at] + data[at + length :]
        if choice == 6:
            return data[: at + length] + data[at:]
        if choice == 7:  # a piece moves
            piece = data[at : at + length]
            rest = data[:at] + data[at + length :]
            place = int(rng.random() * (len(rest) + 1))
            return rest[:place] + piece + rest[place:]
        other = self._examples[int(rng.random() * len(self._examples))]
        cut = int(rng.random() * (len(other) + 1))
        if choice == 8:
            return data[:at] + other[cut:]
        return data[:at] + other[cut : cut + length] + data[at:]


def new_seed() -> int:
    """The seed of a campaign: `HOSTILE_SEED`, else a new one, printed."""
    seed = int(os.environ.get("HOSTILE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"HOSTILE_SEED={seed}")
    return seed


def attack(parser: Parser, *, count: int, seed: int) -> Tally:
    """Hand `count` malformed inputs to a parser and tell what happened; faults are told, not raised."""
    rng = random.Random(f"{seed} {parser.name}")
    mutate = Mutator(parser.examples(), rng, parser.words)
    tally = Tally()
    clock, parse, declared = time.thread_time, parser.parse, parser.declared
    before = _peak_memory()
    with _endless_raises(tally):
        for number in range(count):
            data = mutate()
            tally.inputs = number
            started = clock()
            try:
                parse(data, rng)
            except declared:
                tally.refused += 1
            except (Exception, Endless) as error:
                tally.undeclared += 1
                _tell(tally, f"input {number}: {type(error).__name__}: {str(error)[:300]}", data)
            spent = clock() - started
            tally.slowest_s = max(tally.slowest_s, spent)
            if spent > MAX_CPU_S:
                tally.slow += 1
                _tell(tally, f"input {number}: {spent:.2f} s", data)
    tally.inputs, tally.grown = count, _peak_memory() - before
    return tally


class Endless(BaseException):
    """A parser does not come back. Not an Exception: no `except Exception` on the way may keep it."""


@contextmanager
def _endless_raises(tally: Tally) -> Iterator[None]:
    """Look every ten seconds of processor time; raise in the middle of an input that was there at the last look."""
    seen = -1

    def look(*_: object) -> None:
        nonlocal seen
        if seen == tally.inputs:
            raise Endless
        seen = tally.inputs

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run_campaign(parser: Parser, *, count: int, seed: int) -> None:
    """Attack one parser, keep the figures for the table, and fail if anything was found."""
    result = Result(
        campaign=f"7-hostile-{parser.slug}",
        what=f"malformed input: {parser.name}",
        unit="inputs",
        seed=seed,
        again=f"HOSTILE_SEED={seed} HOSTILE_COUNT={count} python3 dev.py test --long tests/campaign/test_hostile.py -k 'million and {parser.slug}'",
    )
    with recorded(result):
        tally = attack(parser, count=count, seed=seed)
        result.points = tally.inputs
        too_large = int(tally.grown > MAX_MEMORY)
        result.broken = {"undeclared errors": tally.undeclared, "over 1 s": tally.slow, "over 64 MiB": too_large}
        result.figures = {"refused": f"{tally.refused:,}", "slowest": f"{tally.slowest_s * 1000:.0f} ms"}
    assert not any(result.broken.values()), "\n".join([f"{parser.name}: {result.broken}", *tally.faults])


@contextmanager
def memory_bound(limit: int = MAX_MEMORY) -> Iterator[None]:
    """Fail where Python's own allocations within the block rise by more than `limit` bytes."""
    import tracemalloc

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown <= limit, f"{grown / 2**20:.0f} MiB"


@contextmanager
def cpu_bound(limit: float = MAX_CPU_S) -> Iterator[None]:
    """Fail where the block takes more of this thread's own processor time."""
    started = time.thread_time()
    yield
    spent = time.thread_time() - started
    assert spent <= limit, f"{spent:.2f} s"


def pieces_of(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut anywhere: whole, in a few pieces, or, for what is short, byte by byte."""
    choice = rng.random()
    if choice < 0.3 or len(data) < 2:
        return [data]
    if choice < 0.33 and len(data) < 1500:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(int(rng.random() * (len(data) + 1)) for _ in range(1 + int(rng.random() * 8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _tell(tally: Tally, what: str, data: bytes) -> None:
    if len(tally.faults) < _MAX_SHOWN:
        tally.faults.append(f"{what}\n  {data!r}")


def _peak_memory() -> int:
    """The most this process ever had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""
What one request is asked to show: the switches of the emulator.

They come from the request's own header `X-Emulator: key=value; key=value`, or from a queue of dicts, one per coming call;
where both name a switch, the header wins. An unknown switch or value is a 400 and never a silent default: a test that
misspells a switch must not pass.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from openrouter_audit.testing.emulator.refusals import NAMES

ENDS = (
    "done", "no_done", "cut_frame", "cut_boundary", "hold", "error_first", "error_mid", "error_usage", "choice_error", "native_error",
    "extra_done",
)  # fmt: skip
"""
`cut_frame` closes the connection inside a frame. `cut_boundary` ends the body properly, yet after half of the tokens and with
neither usage nor terminal event. `hold` goes quiet after half of the tokens and waits until the client has gone. A body that
is no stream is cut in its middle by the first, after its headers by the second, and held in its middle. `extra_done` is
`done`, with `[DONE]` after the terminal event of a Messages stream.
"""
UNFINISHED = frozenset({"cut_frame", "cut_boundary", "hold"})
"""Those of ENDS that break off."""

RECORDS = ("ok", "never", "null_cost", "drift", "other_cost", "other_id", "nulls", "absent", "unknown")
"""
`null_cost`: no cost at the first read. `drift`: a tenth more from the second read on. `other_cost`: a tenth more than the
answer said. `other_id`: the record of another id. `nulls`: every nullable field null. `absent`: optional fields missing.
`unknown`: members and values nobody has heard of.
"""

_MOST_TOOLS = 256
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class UnknownSwitch(ValueError):
    """A switch, or a value of one, that the emulator does not know; nothing was queued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One request's switches; None where nothing was asked."""

    latency_ms: float | None = None
    """Wait before the first byte of the answer; infinite for `never` and -1: until the client has gone."""
    status: int | None = None
    """HTTP status; 0 closes the connection before any byte of an answer; 200 beside `error` is an error in a 200."""
    error: str | dict[str, Any] | None = None
    """Name of an error of `refusals`, an `error` object, or (holding the member `error`) a whole body."""
    error_code: int | str | None = None
    """Stands as `error.code`; may be text."""
    retry_after: str | None = None
    """Seconds, sent as `Retry-After`."""
    record_delay_ms: float | None = None
    """GET /generation is a 404 for so long; infinite for `never` and -1."""
    record: str = "ok"
    """One of RECORDS."""
    generation_status: tuple[tuple[int, float], ...] = ()
    """Answers of GET /generation before the record is shown: status and number of reads (infinite without `xN`)."""
    cost: str | None = None
    """What is billed, however the call ends, emitted digit for digit."""
    keepalives: int | None = None
    """Comments before the first event of a stream; 1 if not said."""
    chunk: int | None = None
    """Bytes of body per piece, wherever that splits."""
    gap_ms: float | None = None
    """Pause between two pieces."""
    gzip: bool = False
    usage_shape: str = "a"
    """Of a chat stream's last chunk: a repeats the finish reason, b has no choices, c has finish reason null."""
    end: str = "done"
    """One of ENDS."""
    times: int | None = None
    model: str | None = None
    """Model that serves, as the answer names it."""
    provider: str | None = None
    """Provider that serves, as the answer names it."""
    byok: str | None = None
    """`fee`: 5 % of the provider's bill is charged. `free`: nothing is (monthly allowance)."""
    cache: str | None = None
    """Response cache: `hit` and `miss` force it, `auto` keys by the exact body as `X-OpenRouter-Cache: true` does."""
    finish_reason: str | None = None
    tools: tuple[tuple[str | None, str | None], ...] | None = None
    """Tools that the answer calls, each a name and its arguments; None in either is left to the emulator."""
    redirect: tuple[int, str | None] | None = None
    """Status and place of a redirect that comes first; None is the same place, where the call is then served."""
    tokens: int | None = None
    """Completion tokens, and so the number of content chunks of a stream."""


NOTHING_ASKED = Behaviour()


def _number(least: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        number = float(value)
        if not least <= number < math.inf:
            raise ValueError
        return number

    return convert


def _whole(least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = int(value)
        if isinstance(value, bool) or number < least:
            raise ValueError
        return number

    return convert


def _one_of(*known: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in known:
            raise ValueError
        return str(value)

    return convert


def _truth(value: Any) -> bool:
    return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}[
        str(value).lower()
    ]


def _status(value: Any) -> int:
    status = int(value)
    if status != 0 and not 200 <= status <= 599:
        raise ValueError
    return status


def _error(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        value = msgspec.json.decode(value)
    if isinstance(value, dict):
        return value
    return _one_of(*NAMES)(value)


def _error_code(value: Any) -> int | str:
    return int(value) if str(value).isdigit() else str(value)


def _delay(value: Any) -> float:
    return math.inf if str(value) in {"never", "-1"} else _number(0)(value)


def _tools(value: Any) -> tuple[tuple[str | None, str | None], ...]:
    """So many calls, or names between commas, or a list of names and of objects with `name` and `arguments`."""
    if isinstance(value, list):
        asked = tuple(map(_tool, value))
    elif isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    elif str(value).isdigit():
        asked = ((None, None),) * min(int(value), _MOST_TOOLS + 1)
    else:
        asked = tuple((_word(name), None) for name in str(value).split(","))
    if not 0 < len(asked) <= _MOST_TOOLS:
        raise ValueError
    return asked


def _tool(value: Any) -> tuple[str | None, str | None]:
    if not isinstance(value, dict):
        return _word(value), None
    if not value or value.keys() - {"name", "arguments"}:
        raise ValueError
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        msgspec.json.decode(arguments)  # text that is no JSON cannot stand in a Messages answer
    elif arguments is not None:
        arguments = msgspec.json.encode(arguments).decode()
    return _word(value["name"]) if "name" in value else None, arguments


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def _redirect(value: Any) -> tuple[int, str | None]:
    """`307`, or `307 https://elsewhere.example/api/v1/…`."""
    status, _, place = str(value).partition(" ")
    place = place.strip()
    if int(status) not in {301, 302, 303, 307, 308} or not place.isascii() or not place.isprintable():
        raise ValueError
    return int(status), place or None


def _cost(value: Any) -> str:
    text = str(value)
    if not _JSON_NUMBER.fullmatch(text) or isinstance(value, bool):
        raise ValueError
    return text


def _statuses(value: Any) -> tuple[tuple[int, float], ...]:
    """`429x2,500x1` is 429 twice and then 500 once; an item without `xN` lasts for ever."""
    items = [str(item).strip().partition("x") for item in (value if isinstance(value, list) else str(value).split(","))]
    return tuple((_status(status), float(int(count)) if times else math.inf) for status, times, count in items)


def _byok(value: Any) -> str | None:
    if value in {"fee", "free"}:
        return str(value)
    return "fee" if _truth(value) else None


def _cache(value: Any) -> str | None:
    if str(value).lower() in {"hit", "miss", "auto"}:
        return str(value).lower()
    return "auto" if _truth(value) else None


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "latency_ms": _delay,
    "status": _status,
    "error": _error,
    "error_code": _error_code,
    "retry_after": str,
    "record_delay_ms": _delay,
    "record": _one_of(*RECORDS),
    "generation_status": _statuses,
    "cost": _cost,
    "keepalives": _whole(0),
    "chunk": _whole(1),
    "gap_ms": _number(0),
    "gzip": _truth,
    "usage_shape": _one_of("a", "b", "c"),
    "end": _one_of(*ENDS),
    "times": _whole(1),
    "model": str,
    "provider": str,
    "byok": _byok,
    "cache": _cache,
    "finish_reason": _one_of("stop", "length", "tool_calls", "content_filter", "error"),
    "tools": _tools,
    "redirect": _redirect,
    "tokens": _whole(0),
}
SWITCHES = tuple(field.name for field in fields(Behaviour))


def parse_switches(item: Any) -> dict[str, Any]:
    """
    Check one dict of switches and turn its values into those of `Behaviour`.

    Raises:
        UnknownSwitch: A key or a value is not known.
    """
    if not isinstance(item, Mapping):
        raise UnknownSwitch("a behaviour is an object of switches")
    parsed = {}
    for key, value in item.items():
        if key not in _CONVERTERS:
            raise UnknownSwitch(f"unknown switch {key!r}; known are {', '.join(SWITCHES)}")
        try:
            parsed[key] = _CONVERTERS[key](value)
        except (ValueError, TypeError, KeyError, msgspec.DecodeError):
            raise UnknownSwitch(f"switch {key!r} cannot be {value!r}") from None
    return parsed


@functools.lru_cache(maxsize=1024)
def parse_header(text: str) -> dict[str, Any]:
    """
    Read the header `X-Emulator`; whoever gets the dict must not change it.

    Raises:
        UnknownSwitch: A key or a value is not known, or a part is not `key=value`.
    """
    item = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals:
            raise UnknownSwitch(f"{part.strip()!r} is not key=value")
        item[key.strip()] = value.strip()
    return parse_switches(item)

"""
What the emulator makes up for one call before a byte of the answer exists: ids, model, tokens, words and their price.

Everything follows from the seed, the number of the call and the bytes of the request, so two runs with equal requests in
equal order are equal to the byte.
"""

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

from openrouter_audit.testing.emulator.catalogue import DEFAULT_MODEL, Charge, Model, charge, find_model
from openrouter_audit.testing.emulator.switches import Behaviour

FIRST_SECOND = 1_795_424_400
"""2026-11-23T09:00:00Z; call n is made n seconds later, whatever the clock says."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WORDS = (
    "Invoice", "INV-1093", "über", "twelve", "days", "is", "overdue", "—", "naïve", "the", "customer", "請求書", "was", "told", "on",
    "Monday", "and", "will", "pay", "1 204,50 €", "soon", "🙂", "by", "transfer",
)  # fmt: skip
"""Some take two, three and four bytes in UTF-8, so that pieces of a stream can split a character."""


class Frame(NamedTuple):
    """A piece of body that belongs together: one event of a stream, or a whole body."""

    data: bytes
    tokens: int
    """Completion tokens delivered once this frame has been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """The body of an answer and what it means for the books."""

    frames: list[Frame]
    tokens: int | None
    """Completion tokens to bill when all was sent; None if no generation came about."""
    finish_reason: str | None
    native_finish_reason: str | None
    cost: str | None = None
    """Billed instead of the price of the tokens."""
    cut: bool = False
    """The connection is closed after the last frame, with the body unfinished."""
    hold: bool = False
    """Nothing comes after the last frame, and the connection stays open until the client has gone."""
    promised: int | None = None
    """Content-Length of a whole body, where the frames hold less of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Waiting times spread like those of real calls: lognormal, drawn from the seed and the number of the call."""

    median_ms: float = 400.0
    sigma: float = 0.6
    """Standard deviation of the logarithm; 0.6 puts the 99th percentile at four times the median."""

    def delay_ms(self, draw: float) -> float:
        """The waiting time of a call whose uniform draw (0 < draw < 1) this is."""
        return self.median_ms * math.exp(self.sigma * NormalDist().inv_cdf(draw))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One call as the emulator means to serve it."""

    n: int
    generation_id: str
    request_id: str
    created: int
    """Unix seconds."""
    requested: str
    """The model asked for."""
    model: Model
    served_model: str
    """As the answer names it."""
    provider: str
    prompt_tokens: int
    pieces: list[str]
    """The answer, a token each."""
    finish_reason: str
    native_finish_reason: str
    behaviour: Behaviour
    request: dict[str, Any]
    cache_source: str | None = None
    """Generation that paid for this answer, if the response cache gives it."""
    metadata: bool = False
    """The request asked for `openrouter_metadata`."""
    latency_ms: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def charge(self, completion_tokens: int, *, fixed: str | None = None) -> Charge:
        """What the call costs once so many tokens were produced; a cost asked for by switch goes before `fixed`."""
        asked = self.behaviour.cost
        return charge(
            self.model,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion_tokens,
            byok=self.behaviour.byok,
            fixed=fixed if asked is None else asked,
            free=self.cache_source is not None,
        )


def digest_of(seed: int, n: int, purpose: str) -> bytes:
    """32 bytes that look random and depend on nothing else."""
    return hashlib.sha256(f"{seed}/{n}/{purpose}".encode()).digest()


def tail_of(digest: bytes, length: int = 20) -> str:
    """So many letters and digits out of a digest."""
    number, letters = int.from_bytes(digest, "big"), []
    for _ in range(length):
        number, digit = divmod(number, 62)
        letters.append(_DIGITS[digit])
    return "".join(letters)


def characters_in(value: Any) -> int:
    """Characters of all text in a message list, an `input` or a `prompt`; a list of numbers counts four a token."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(characters_in, value))
    if isinstance(value, dict):
        return sum(map(characters_in, value.values()))
    return 4 if isinstance(value, int) else 0


def _asked_limit(request: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        limit = request.get(name)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def _asked_model(request: dict[str, Any]) -> str:
    model = request.get("model")
    if not model and isinstance(request.get("models"), list) and request["models"]:
        model = request["models"][0]
    return model if isinstance(model, str) and model else DEFAULT_MODEL


def make_plan(
    *,
    seed: int,
    n: int,
    body: bytes,
    request: dict[str, Any],
    content: Any,
    behaviour: Behaviour,
    id_prefix: str,
    speaks: bool,
    cache_source: str | None,
    metadata: bool,
) -> Plan:
    """
    Plan one call.

    Args:
        seed: That of the emulator.
        n: Number of the call, counted from 1.
        body: Raw request body; the length and the words of the answer depend on it.
        request: The body, parsed.
        content: The part of it that is the prompt.
        behaviour: What this call was asked to show.
        id_prefix: `gen-`, or what the interface has instead.
        speaks: Whether the interface answers in words at all.
        cache_source: Generation id that paid, if the response cache answers.
        metadata: Whether `openrouter_metadata` was asked for.
    """
    digest = hashlib.sha256(b"%d/" % seed + body).digest()
    requested = _asked_model(request)
    model = find_model(requested)
    count = 0
    finish = behaviour.finish_reason or ("stop" if behaviour.tools is None else "tool_calls")
    if speaks:
        wanted = 4 + digest[0] % 40 if behaviour.tokens is None else behaviour.tokens
        limit = _asked_limit(request)
        count = wanted if limit is None or behaviour.tokens is not None else min(wanted, limit)
        if count < wanted and behaviour.finish_reason is None and behaviour.tools is None:
            finish = "length"
    start = digest[1]
    pieces = [("" if i == 0 else " ") + _WORDS[(start + i) % len(_WORDS)] for i in range(count)]
    tail = tail_of(digest_of(seed, n, "id"))
    created = FIRST_SECOND + n
    return Plan(
        n=n,
        generation_id=f"{id_prefix}{created}-{tail}",
        request_id=f"req-{created}-{tail[::-1]}",
        created=created,
        requested=requested,
        model=model,
        served_model=behaviour.model or model.permaslug,
        provider=behaviour.provider or model.provider,
        prompt_tokens=3 + characters_in(content) // 4,
        pieces=pieces,
        finish_reason=finish,
        native_finish_reason=_native(finish, model.provider),
        behaviour=behaviour,
        request=request,
        cache_source=cache_source,
        metadata=metadata,
        latency_ms=120.0 + digest[2] * 3,
    )


def _native(finish: str, provider: str) -> str:
    """Providers keep their own words for the same ending."""
    if provider in {"Anthropic", "Amazon Bedrock"}:
        return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}.get(finish, finish)
    return finish

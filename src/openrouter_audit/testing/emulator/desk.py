"""
Decides what every request is answered, and books what became of it; no socket here.

A request goes through the same steps as at OpenRouter: route, key, body, then a generation. The connection sends the
`Answer` and reports back once through `settle`, with what was really delivered.
"""

import gzip
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec

from openrouter_audit.testing.emulator import records, refusals
from openrouter_audit.testing.emulator.books import Generation, Ledger, Row
from openrouter_audit.testing.emulator.calls import BASE, INTERFACES, Answer, Call, Interface, Request, is_call
from openrouter_audit.testing.emulator.catalogue import CANNOT_ABORT
from openrouter_audit.testing.emulator.chat import refused_metadata
from openrouter_audit.testing.emulator.plan import (
    FIRST_SECOND,
    Frame,
    LatencyModel,
    Plan,
    Telling,
    digest_of,
    make_plan,
    tail_of,
)
from openrouter_audit.testing.emulator.refusals import Refusal
from openrouter_audit.testing.emulator.script import Script
from openrouter_audit.testing.emulator.switches import Behaviour, UnknownSwitch

_CACHE_KEPT = 10_000  # response-cache entries; the oldest go first
_CACHE_TTL_S = 300
_REDIRECTED = "redirected=1"
"""Query of a request that has been redirected to where it came from."""


@dataclass(slots=True)
class Desk:
    """Owned by the server's thread; `script.extend` and `ledger.calls` alone may be used by others."""

    seed: int
    latency_model: LatencyModel | None = None
    file: Path | None = None
    clock: Callable[[], float] = time.monotonic
    """Seconds; decides when records become visible."""
    script: Script = field(default_factory=Script)
    ledger: Ledger = field(init=False)
    _arrived: int = 0
    _cache: dict[tuple[bytes, ...], tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.file)

    def answer(self, request: Request) -> Answer:
        """Decide the answer to a request."""
        if request.path.endswith(("/__emulator/script", "/__emulator/calls")):
            return self._control(request)
        key = _key_of(request.headers)
        key_digest = hashlib.sha256(key.encode()).digest() if key else None
        if not is_call(request.method, request.path):
            return self._look_up(request, key, key_digest)
        self._arrived += 1
        call = Call(n=self._arrived, request=request, key_digest=key_digest)
        try:
            behaviour = self.script.next(
                header=request.headers.get("x-emulator"),
                series=(request.path, (key_digest or b"").hex(), hashlib.sha256(request.body).hexdigest()),
                retry_count=request.headers.get("x-stainless-retry-count"),
            )
        except UnknownSwitch as error:
            return self._refuse(
                call, Refusal(status=400, body=refusals.error_body(400, f"X-Emulator: {error}", user=False))
            )
        answer = self._serve(call, key, behaviour)
        if call.plan is None:
            answer.headers = _with_id(answer.headers, call.generation_id)
        answer.behaviour = behaviour
        answer.delay_ms = self._delay(call.n, behaviour)
        return answer

    def _serve(self, call: Call, key: str | None, behaviour: Behaviour) -> Answer:
        request = call.request
        interface = INTERFACES.get(request.path) if request.method == "POST" else None
        if interface is None:
            return self._refuse(call, refusals.refusal("404_route"))
        if not key:
            return self._refuse(call, refusals.refusal("401_missing_header"))
        if request.too_large:
            return self._refuse(call, refusals.refusal("413_too_large"))
        if behaviour.redirect is not None and request.query != _REDIRECTED:
            return self._redirect(call, *behaviour.redirect)
        if behaviour.status == 0:
            return Answer(status=0, headers=[], telling=_nothing_told(), call=call)
        asked = refusals.asked_refusal(
            status=behaviour.status, error=behaviour.error, code=behaviour.error_code, retry_after=behaviour.retry_after
        )
        in_200 = asked is not None and asked.status < 400
        if asked is not None and not in_200 and (behaviour.status is not None or behaviour.end == "done"):
            return self._refuse(call, asked)
        try:
            parsed = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._refuse(call, refusals.refusal("400_no_token"))
        if not isinstance(parsed, dict):
            return self._refuse(call, refusals.refusal("400_no_token"))
        content = next((parsed[name] for name in interface.prompt if parsed.get(name)), None)
        if content is None:
            return self._refuse(call, refusals.refusal("400_missing_input"))
        return self._generate(
            call, interface, parsed, content, behaviour, error_only=in_200 and behaviour.end == "done"
        )

    def _generate(
        self,
        call: Call,
        interface: Interface,
        parsed: dict[str, Any],
        content: Any,
        behaviour: Behaviour,
        *,
        error_only: bool,
    ) -> Answer:
        stream = bool(parsed.get("stream")) and interface.stream is not None
        cache_source, cache_headers = self._from_cache(call, behaviour, stream=stream)
        plan = make_plan(
            seed=self.seed,
            n=call.n,
            body=call.request.body,
            request=parsed,
            content=content,
            behaviour=behaviour,
            id_prefix=interface.id_prefix,
            speaks=interface.speaks,
            cache_source=cache_source,
            metadata=_wants_metadata(call.request.headers),
        )
        call.plan, call.interface, call.generation_id = plan, interface, plan.generation_id
        if error_only:
            stream, telling = False, interface.error_in_200(plan)
        else:
            telling = interface.stream(plan) if stream and interface.stream else interface.whole(plan)
        headers = [*self._headers(call, "text/event-stream" if stream else "application/json"), *cache_headers]
        if stream:
            headers.append(("cache-control", "no-cache"))
        status = behaviour.status if behaviour.status and behaviour.status < 400 else 200
        return Answer(
            status=status, headers=_with_id(headers, plan.generation_id), telling=telling, stream=stream, call=call
        )

    def _refuse(self, call: Call, refused: Refusal) -> Answer:
        interface, told = INTERFACES.get(call.request.path), refused.body
        if refused.has_id:
            prefix = interface.id_prefix if interface else "gen-"
            call.generation_id = f"{prefix}{FIRST_SECOND + call.n}-{tail_of(digest_of(self.seed, call.n, 'id'))}"
            # As documented: on errors too, but neither on masked ones nor on those that never came this far.
            if _wants_metadata(call.request.headers) and refused.status != 500 and isinstance(told, dict):
                told = {**told, "openrouter_metadata": refused_metadata(_parsed(call.request.body), refused)}
        if interface is not None and interface.envelope is not None:
            told = interface.envelope(told, refused.status, call.generation_id)
        text = isinstance(told, str)
        body = told.encode() if text else msgspec.json.encode(told)
        headers = [*self._headers(call, "text/plain; charset=UTF-8" if text else "application/json"), *refused.headers]
        return Answer(status=refused.status, headers=headers, telling=_nothing_told(body), call=call)

    def _redirect(self, call: Call, status: int, place: str | None) -> Answer:
        """Send the client elsewhere; booked like any other request, billed to nobody."""
        location = ("location", f"{call.request.path}?{_REDIRECTED}" if place is None else place)
        headers = [*self._headers(call, "text/plain; charset=UTF-8"), location]
        return Answer(status=status, headers=headers, telling=_nothing_told(), call=call)

    def _headers(self, call: Call | None, content_type: str) -> list[tuple[str, str]]:
        ray = digest_of(self.seed, call.n if call else 0, "ray").hex()[:16]
        return [
            ("content-type", content_type),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "X-Generation-Id,X-Provider-Name,request-id,cf-ray"),
            ("cf-ray", f"{ray}-FRA"),
            ("server", "cloudflare"),
        ]

    def _delay(self, n: int, behaviour: Behaviour) -> float:
        if behaviour.latency_ms is not None:
            return behaviour.latency_ms
        if self.latency_model is None:
            return 0.0
        draw = (int.from_bytes(digest_of(self.seed, n, "latency")[:6], "big") + 0.5) / 2**48
        return self.latency_model.delay_ms(draw)

    def _from_cache(
        self, call: Call, behaviour: Behaviour, *, stream: bool
    ) -> tuple[str | None, list[tuple[str, str]]]:
        mode = behaviour.cache or ("auto" if call.request.headers.get("x-openrouter-cache") == "true" else None)
        if mode is None:
            return None, []
        key = (
            call.key_digest or b"",
            call.request.path.encode(),
            b"%d" % stream,
            hashlib.sha256(call.request.body).digest(),
        )
        source, stored_at = self._cache.get(key, (None, 0.0))
        age = self.clock() - stored_at
        if source is not None and age >= _CACHE_TTL_S:
            source = None
        if mode == "hit" and source is None:
            source, age = f"gen-{FIRST_SECOND}-{tail_of(digest_of(self.seed, call.n, 'cache'))}", 0.0
        if mode == "miss" or source is None:
            own = f"gen-{FIRST_SECOND + call.n}-{tail_of(digest_of(self.seed, call.n, 'id'))}"
            self._cache[key] = (own, self.clock())
            if len(self._cache) > _CACHE_KEPT:
                del self._cache[next(iter(self._cache))]
            return None, [("X-OpenRouter-Cache-Status", "MISS"), ("X-OpenRouter-Cache-TTL", str(_CACHE_TTL_S))]
        return source, [
            ("X-OpenRouter-Cache-Status", "HIT"),
            ("X-OpenRouter-Cache-Age", str(int(age))),
            ("X-OpenRouter-Cache-TTL", str(_CACHE_TTL_S - int(age))),
            ("X-OpenRouter-Cache-Source-Id", source),
        ]

    def settle(self, answer: Answer, *, digest: bytes | None, tokens: int | None = None, hung_up: bool = False) -> None:
        """
        Book a call that has ended.

        Args:
            answer: The one that was sent, or should have been.
            digest: SHA-256 of the body sent; None if nothing was.
            tokens: Completion tokens delivered before the client hung up.
            hung_up: The client went away while a stream was being sent.
        """
        call = answer.call
        if call is None:
            return
        answer.call = None  # booked once, whatever happens to the connection afterwards
        plan, telling = call.plan, answer.telling
        billed_tokens = telling.tokens
        if plan is None or call.interface is None or billed_tokens is None:
            self.ledger.enter(self._row(call, answer, digest), None)
            return
        cancelled = hung_up and plan.provider not in CANNOT_ABORT
        if cancelled:
            billed_tokens = min(billed_tokens, tokens or 0)
        cost = plan.charge(billed_tokens, fixed=None if cancelled else telling.cost)
        differs = plan.behaviour.record in {"drift", "other_cost"}
        row = self._row(
            call,
            answer,
            digest,
            plan=plan,
            completion_tokens=billed_tokens,
            billed=records.drifted(cost.total) if differs else cost.total,
            cancelled=cancelled,
        )
        headers = call.request.headers
        usual = (plan.model.provider, plan.model.permaslug, 429)
        served = (plan.provider, plan.served_model, 200)
        never = plan.behaviour.record == "never"
        delay_s = float("inf") if never else (plan.behaviour.record_delay_ms or 0.0) / 1000
        generation = Generation(
            row=row,
            request_id=plan.request_id,
            created=plan.created,
            api_type=call.interface.api_type,
            streamed=answer.stream,
            finish_reason=None if cancelled else telling.finish_reason,
            native_finish_reason=None if cancelled else telling.native_finish_reason,
            told_cost=cost.total,
            upstream_cost=cost.upstream if plan.behaviour.byok else "0",
            is_byok=plan.behaviour.byok is not None,
            cache_source=plan.cache_source,
            tried=(served,) if usual[:2] == served[:2] else (usual, served),
            latency_ms=int(plan.latency_ms),
            generation_ms=int(plan.latency_ms) + 12 * billed_tokens,
            user_agent=headers.get("user-agent"),
            referer=headers.get("http-referer"),
            external_user=_text(plan.request.get("user")) or _claimed_user(plan.request.get("metadata")),
            session_id=_text(plan.request.get("session_id")) or headers.get("x-session-id"),
            behaviour=plan.behaviour,
            visible_from=self.clock() + delay_s,
        )
        self.ledger.enter(row, generation)

    def _row(
        self,
        call: Call,
        answer: Answer,
        digest: bytes | None,
        *,
        plan: Plan | None = None,
        completion_tokens: int | None = None,
        billed: str | None = None,
        cancelled: bool = False,
    ) -> Row:
        free = plan is not None and plan.cache_source is not None
        return Row(
            n=call.n,
            generation_id=call.generation_id,
            path=call.request.path,
            status=answer.status,
            key_digest=call.key_digest,
            model=plan.served_model if plan else None,
            provider=plan.provider if plan else None,
            prompt_tokens=None if plan is None else 0 if free else plan.prompt_tokens,
            completion_tokens=0 if free else completion_tokens,
            billed=billed,
            cancelled=cancelled,
            request_digest=hashlib.sha256(call.request.body).digest(),
            response_digest=digest,
        )

    def _look_up(self, request: Request, key: str | None, key_digest: bytes | None) -> Answer:
        """GETs that are no calls."""
        rest = request.path[len(BASE) :]
        if rest == "/models":
            return self._told(200, records.models_body())
        if not key:
            return self._no("401_missing_header")
        if rest == "/generation":
            return self._generation(parse_qs(request.query).get("id", [""])[0], key_digest)
        if rest == "/key":
            return self._told(200, records.key_body(key, self.ledger.spent(key_digest)))
        if rest == "/credits":
            return self._told(200, records.credits_body(self.ledger.total()))
        return self._no("404_route")

    def _generation(self, generation_id: str, key_digest: bytes | None) -> Answer:
        found = self.ledger.find(generation_id, now=self.clock())
        if found is None:
            return self._told(
                404, msgspec.json.encode(refusals.error_body(404, f"Generation {generation_id} not found", user=False))
            )
        if found.row.key_digest != key_digest:
            return self._no("401_user_not_found")
        passed = 0.0
        for status, times in found.behaviour.generation_status:
            passed += times
            if found.refused < passed:
                found.refused += 1
                refused = refusals.refusal_for_status(status)
                return self._told(status, msgspec.json.encode(refused.body), refused.headers)
        return self._told(200, records.generation_body(found))

    def _control(self, request: Request) -> Answer:
        """The emulator's own routes; they are in no books."""
        name = request.path.rpartition("/")[2]
        if name == "calls" and request.method == "GET":
            return self._told(200, msgspec.json.encode(self.ledger.calls()))
        if name == "script" and request.method == "POST":
            try:
                items = msgspec.json.decode(request.body, type=list[dict[str, Any]])
                return self._told(200, msgspec.json.encode({"queued": self.script.extend(items)}))
            except (msgspec.MsgspecError, ValueError) as error:
                return self._told(400, msgspec.json.encode(refusals.error_body(400, f"script: {error}", user=False)))
        return self._no("404_route")

    def _no(self, name: str) -> Answer:
        return self._told(int(name[:3]), msgspec.json.encode(refusals.refusal(name).body))

    def _told(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        return Answer(
            status=status, headers=[*self._headers(None, "application/json"), *headers], telling=_nothing_told(body)
        )


def _nothing_told(body: bytes = b"") -> Telling:
    return Telling(frames=[Frame(body, 0)] if body else [], tokens=None, finish_reason=None, native_finish_reason=None)


def _with_id(headers: list[tuple[str, str]], generation_id: str | None) -> list[tuple[str, str]]:
    return headers if generation_id is None else [*headers, ("X-Generation-Id", generation_id)]


def _parsed(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _wants_metadata(headers: Mapping[str, str]) -> bool:
    """By the header, or by its older name."""
    return (
        headers.get("x-openrouter-metadata") == "enabled"
        or headers.get("x-openrouter-experimental-metadata") == "enabled"
    )


def _claimed_user(metadata: Any) -> str | None:
    """Where Messages has the end user."""
    return _text(metadata.get("user_id")) if isinstance(metadata, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _key_of(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else headers.get("x-api-key")


def compress(body: bytes) -> bytes:
    """A gzip body without a time stamp, so that equal bodies stay equal."""
    return gzip.compress(body, mtime=0)

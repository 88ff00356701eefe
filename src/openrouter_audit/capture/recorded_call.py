"""
One call between an adapter and a recorder: feeds the exchange, writes what it gives, and never breaks the call it records.

Adapters for any client library call `begin` before they send and then tell what passes by. The intent is written when
`begin` returns, the outcome when the telling method returns, so an adapter keeps the promises (P1, C10) by telling first
and handing on afterwards. A fault of ours is counted and logged once, without content; the call goes on as if nobody
watched, and its outcome says what is known. The exceptions let through are `AuditUnavailable` and `ContentBlocked`, before anything is sent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from msgspec import Struct

from openrouter_audit.capture.attribution import Receipt, current_scope
from openrouter_audit.capture.context import names_person
from openrouter_audit.capture.exchange import CallExchange, Clock, SentRequest, SystemClock
from openrouter_audit.capture.failures import failure_of, interrupted
from openrouter_audit.capture.grouping import Place, place_of, remember_failure
from openrouter_audit.capture.identities import new_identity
from openrouter_audit.capture.openrouter import headers_of
from openrouter_audit.capture.recorder import FinishedCall, Recorder
from openrouter_audit.core.entries import AlertRaised, CallIntent, CallOutcome, LogLoss, Private, RedirectHop
from openrouter_audit.errors import AuditUnavailable, ContentBlocked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openrouter_audit.capture.content import CallContent

MAX_ALERTS = 1_000
"""Titles with a name in them that one process tells of; a person has understood by then."""

logger = logging.getLogger("openrouter_audit")
_CLOCK = SystemClock()


class Faults:
    """How often this module failed its own work, by place; `doctor` shows it. Nobody resets it."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, place: str, error: BaseException) -> None:
        seen = self.counts.get(place, 0)
        self.counts[place] = seen + 1
        if not seen:
            logger.warning("recording a call failed in %s (%s); the call itself went on", place, type(error).__name__)


faults = Faults()


class RecordedCall(Struct, eq=False):
    """A call whose intent is written."""

    _recorder: Recorder
    _sent: SentRequest | None
    _place: Place
    _exchange: CallExchange
    intent: CallIntent
    private: Private
    body: Callable[[bytes], CallOutcome | None]
    """`piece` for those who see many: what it raises they count as a fault, what it returns goes to `ended`."""
    strict: bool
    _token: object
    _receipt: Receipt | None
    over: bool = False
    """The outcome is written, or counted as lost."""
    unsynced: bool = False
    """Strict mode: the outcome is written and `sync_outcome` is due before anything more is handed on."""

    def __repr__(self) -> str:
        return f"RecordedCall({self.intent.id})"

    @classmethod
    def begin(cls, recorder: Recorder, sent: SentRequest, *, clock: Clock = _CLOCK) -> RecordedCall | None:
        """
        Write the intent of a request that is about to be sent.

        Returns:
            None where a fault of ours keeps this call from being recorded: then the loss is, and the call goes on.

        Raises:
            AuditUnavailable: The spool takes no record, or strict mode met a fault of ours: nothing may be sent.
            ContentBlocked: The request holds what the settings forbid to send: nothing may be sent, and the outcome is written.
        """
        try:
            identity = new_identity()
            place = place_of(sent, fresh=identity.group)
            scope = current_scope()
            mode = recorder.mode
            exchange, intent, private = CallExchange.begin(
                sent,
                identity,
                place=place,
                scope=scope,
                mode=mode,
                policy=recorder.policy,
                clock=clock,
                keeps=getattr(recorder, "content", None),
            )
            token = recorder.write(intent, private)
            if private.context is not None and (title := names_person(private)) is not None:
                _alert(recorder, intent, title)
            receipt = None if scope is None else scope.receipt(intent.id, place.attempt)
            call = cls(
                recorder, sent, place, exchange, intent, private, exchange.body, mode == "strict", token, receipt
            )
            if exchange.content is not None:
                call._act_on(exchange.content)
            return call
        except (AuditUnavailable, ContentBlocked):
            raise
        except Exception as error:
            faults.count("begin", error)
            if recorder.mode == "strict":
                raise AuditUnavailable("this call could not be recorded, by a fault of ours", reason="fault") from error
            _record_loss(recorder, clock)
            return None

    def _act_on(self, content: CallContent) -> None:
        """Do what the settings say about what was found in the request."""
        if content.error is not None:
            faults.count("content", content.error)
        if content.reports:
            _say(self._recorder, self.intent, "content_found")
        if content.blocks:
            self.ended(self._exchange.refused("ContentBlocked"))
            raise ContentBlocked(kinds=content.blocks, call_id=self.intent.id)

    def sync_intent(self) -> None:
        """
        Strict mode: return when the intent is on disk. Blocks.

        Raises:
            AuditUnavailable: It may not be; nothing may be sent, and the outcome says `refused`.
        """
        try:
            self._recorder.sync(self._token)
        except AuditUnavailable:
            self.ended(self._exchange.refused())
            raise
        except Exception as error:
            faults.count("sync", error)

    def sync_outcome(self) -> None:
        """Strict mode: return when the outcome is on disk. Blocks, and never raises: the caller always gets its bytes."""
        self.unsynced = False
        try:
            self._recorder.sync(self._token)
        except Exception as error:
            faults.count("sync", error)

    def head(self, status: int, headers: list[tuple[bytes, bytes]], hops: Iterable[RedirectHop] = ()) -> None:
        """The response's status and header fields."""
        try:
            self._exchange.head(status, headers_of(headers), tuple(hops))
            if status >= 400:
                self._may_be_retried()
        except Exception as error:
            faults.count("head", error)

    def piece(self, piece: bytes) -> None:
        """A piece of body, about to be handed on."""
        try:
            outcome = self._exchange.body(piece)
        except Exception as error:
            faults.count("body", error)
        else:
            if outcome is not None:
                self.ended(outcome)

    def whole(self, content: bytes, *, raw_bytes: int, encoded: bool) -> None:
        """The body, where somebody had read it before it could be watched."""
        self._tell("body", lambda: self._exchange.known_body(content, raw_bytes=raw_bytes, encoded=encoded))

    def missed(self, size: int) -> None:
        """The body's first bytes went to somebody else, before it could be watched."""
        try:
            self._exchange.missed(size)
        except Exception as error:
            faults.count("body", error)

    def comes_decoded(self, raw_bytes: int) -> None:
        """
        The pieces are not as they came off the wire: the client library has undone an encoding.

        Args:
            raw_bytes: What has come off the wire by now, as the library counts it.
        """
        try:
            self._exchange.comes_decoded(raw_bytes)
        except Exception as error:
            faults.count("body", error)

    def end(self) -> None:
        """The body ended by itself."""
        self._tell("end", self._exchange.end_of_body)

    def failed(self, error: BaseException, *, sending: bool = False) -> None:
        """
        Sending, or reading the answer, raised.

        Args:
            sending: No response came: the next request may be another attempt.
        """
        if sending:
            try:
                self._may_be_retried()
            except Exception as fault:
                faults.count("failed", fault)
        self._tell("failed", lambda: self._exchange.failed(failure_of(error)))

    def closed(self, error: BaseException | None = None) -> None:
        """
        Nobody will read on.

        Args:
            error: What is being handled while the response is closed.
        """
        if not self.over:
            self._tell("closed", lambda: self._exchange.closed(interrupted=interrupted(error)))

    def _may_be_retried(self) -> None:
        if self._sent is not None:
            remember_failure(self._sent, self._place)

    def _tell(self, place: str, event: Any) -> None:
        try:
            outcome: CallOutcome | None = event()
        except Exception as error:
            faults.count(place, error)
            return
        if outcome is not None:
            self.ended(outcome)

    def ended(self, outcome: CallOutcome) -> None:
        """Write the outcome, then let everybody know; frees the body and the segment."""
        self.over = True
        token, self._sent = self._token, None
        try:
            written = self._recorder.write(outcome, self._answer_kept(), follows=token)
            self._token = written if self.strict else None
            self.unsynced = self.strict
        except Exception as error:
            faults.count("outcome", error)
        try:
            if self._receipt is not None:
                _fill(self._receipt, outcome)
            self._recorder.finished(
                FinishedCall(
                    intent=self.intent,
                    outcome=outcome,
                    private=self.private,
                    api_key=self._exchange.api_key,
                    base_url=self.private.base_url,
                    receipt=self._receipt,
                )
            )
        except Exception as error:
            faults.count("finished", error)

    def _answer_kept(self) -> Private | None:
        content = self._exchange.content
        if content is None:
            return None
        if content.error is not None:
            faults.count("content", content.error)
        return None if content.answer is None else Private(content=content.answer)


_alerted: WeakKeyDictionary[Recorder, set[str]] = WeakKeyDictionary()
"""By recorder, the titles that it was told of: an application that has one says it with every call."""


def _alert(recorder: Recorder, intent: CallIntent, title: str) -> None:
    """Somebody's name is where OpenRouter shows it in public. The alert says in which call, and not the name."""
    try:
        known = _alerted.setdefault(recorder, set())
        if title not in known and len(known) < MAX_ALERTS:
            known.add(title)
            _say(recorder, intent, "user_id_in_title")
    except Exception as error:
        faults.count("alert", error)  # the call itself is recorded


def _say(recorder: Recorder, intent: CallIntent, rule: str) -> None:
    """Raise an alert about a call; where that cannot be written the call itself still is."""
    try:
        recorder.write(AlertRaised(v=1, id=os.urandom(16).hex(), at_us=intent.at_us, rule=rule, call=intent.id))
    except Exception as error:
        faults.count("alert", error)


def _record_loss(recorder: Recorder, clock: Clock) -> None:
    """
    A call that goes unrecorded is itself a record (P6).

    Raises:
        AuditUnavailable: Not even that can be written, so nothing may be sent.
    """
    try:
        recorder.write(
            LogLoss(v=1, id=os.urandom(16).hex(), at_us=clock.wall_ns() // 1000, reason="capture_fault", count=1)
        )
    except AuditUnavailable:
        raise
    except Exception as error:
        faults.count("loss", error)


def _fill(receipt: Receipt, outcome: CallOutcome) -> None:
    receipt.generation_id, receipt.status = outcome.generation_id, outcome.status
    if outcome.cost is not None:
        try:
            receipt.total_cost = Decimal(outcome.cost)
        except InvalidOperation:
            pass

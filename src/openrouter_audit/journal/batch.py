"""
From frames to entries: what one transaction of the sequencer will say.

A batch is filled frame by frame, in the order of the spool, and knows everything the transaction needs: entry texts in
index order, the new position of each segment, what the vault must hold first, and which intents are still open. It
writes nothing itself except quarantined frames, whose files are named by their digest and may be written twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import (
    MAX_ENTRY_BYTES,
    AccessContent,
    AccessExported,
    CallImported,
    CallIntent,
    CallOutcome,
    Content,
    Entry,
    Facts,
    LogLoss,
    LogOpened,
    LogUnreadable,
    Private,
    Writer,
)
from openrouter_audit.core.vocabulary import admit, admit_private
from openrouter_audit.errors import CanonicalError
from openrouter_audit.journal.drain import Source
from openrouter_audit.journal.files import sync_directory, write_synced
from openrouter_audit.journal.segments import FRAME_HEAD_BYTES, HEADER_BYTES, MARKER_BYTES, Damage, Frame
from openrouter_audit.journal.sqlite import Position
from openrouter_audit.journal.vault import KeptContent, PrivateCall, Vault
from openrouter_audit.journal.writer_state import WAITED, WriterCounts

FULL_ENTRIES: Final = 8192
FULL_BYTES: Final = 8 * 1024 * 1024
"""A transaction is about this large at most: memory stays flat however much waits in the spool."""

_PLAUSIBLE_STEP: Final = 1024
"""More threads than this do not write to one segment at a time: numbers in its file run ahead by no more."""
Names = tuple[tuple[str, int], ...] | None
"""What a frame replaces: segment and number of torn frames, or the number a record waited under."""
_STRICT = msgspec.msgpack.Decoder(tuple[Entry, Private | None, Names])
_LOOSE = msgspec.msgpack.Decoder(tuple[dict[str, Any], Any, Any])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no record: text that is not UTF-8 and endless nesting come as Python's own errors."""
_MOST: Final = 2**53 - 1
"""Largest number an entry can hold; a damaged page may count more."""
_replace = msgspec.structs.replace


class Batch:
    """Entries to be committed together. Owned by the sequencer's thread."""

    def __init__(
        self,
        positions: Mapping[str, Position],
        vault: Vault,
        quarantine: Path,
        holds: Callable[[str, int, int], bool] = lambda *_: False,
    ) -> None:
        """
        Args:
            holds: Whether a whole frame stands in a segment (by name) before an offset: `SpoolReader.holds`.
        """
        self._before = positions
        self._vault = vault
        self._quarantine = quarantine
        self._holds = holds
        self.texts: list[bytes] = []
        self.text_bytes = 0
        self.after: dict[str, Position] = {}
        self.private_calls: list[PrivateCall] = []
        self.contents: list[KeptContent] = []
        self.notes: list[tuple[str, str, str]] = []
        self.opened_calls: dict[str, tuple[str, int]] = {}
        self.closed_calls: list[str] = []
        self.rewrites: list[tuple[str, int]] = []

    @property
    def is_full(self) -> bool:
        return len(self.texts) >= FULL_ENTRIES or self.text_bytes >= FULL_BYTES

    @property
    def is_empty(self) -> bool:
        return not self.after

    def position(self, source: Source) -> Position:
        """Where a segment stands once this batch is committed."""
        known = self.after.get(source.segment) or self._before.get(source.segment)
        return known or Position(
            segment=source.segment,
            process=source.process,
            ordinal=source.header.ordinal,
            offset=HEADER_BYTES,
            entries=0,
            last_seq=-1,
            final=False,
        )

    def add(self, source: Source, items: Iterable[Frame | Damage], *, now_us: int) -> bool:
        """
        Take frames in until there are no more or the batch is full; True where there are no more.

        What has no number to be believed is only passed over here: it may be a torn frame that was written again
        elsewhere, which is known when the segment is finished (`finish`).
        """
        position = self.position(source)
        segment, entries, last_seq, offset = source.segment, position.entries, position.last_seq, position.offset
        exhausted = True
        for item in items:
            offset = item.end
            seq, plain = _number_and_content(source, item, last_seq)
            if seq is None:
                continue
            text = self._entry_of(source, item, seq, plain, now_us)
            if text is None:
                continue
            self.texts.append(text)
            self.text_bytes += len(text)
            entries += 1
            last_seq = max(last_seq, seq)
            if self.is_full:
                exhausted = False
                break
        if offset != position.offset:
            self.after[segment] = Position(
                segment=segment,
                process=source.process,
                ordinal=source.header.ordinal,
                offset=offset,
                entries=entries,
                last_seq=last_seq,
                final=False,
            )
        return exhausted

    def finish(
        self,
        source: Source,
        counts: WriterCounts | None,
        open_calls: Iterable[tuple[str, int]],
        named: frozenset[int],
        *,
        size: int,
        now_us: int,
    ) -> None:
        """
        Say the last about a segment whose writer is gone and whose frames are all in: losses, then orphaned intents.

        Args:
            open_calls: Intents of this segment that were committed without an outcome; this batch's are added here.
            named: Numbers that frames elsewhere name: of its torn frames, and of its records that waited in memory.
        """
        position = self.position(source)
        spoken: list[Facts] = [*_losses(source, position, counts, named, size=size, now_us=now_us)]
        closed = frozenset(self.closed_calls)
        orphans = [call for call, _ in open_calls if call not in closed]
        orphans += [call for call, (segment, _) in self.opened_calls.items() if segment == source.segment]
        for call in orphans:
            spoken.append(CallOutcome(v=1, id=call, at_us=now_us, status="unknown", complete=False))
            if self.opened_calls.pop(call, None) is None:
                self.closed_calls.append(call)
        seq = position.last_seq
        for facts in spoken:
            seq += 1
            text = encode(_replace(facts, writer=Writer(segment=source.segment, seq=seq)))
            self.texts.append(text)
            self.text_bytes += len(text)
        self.after[source.segment] = Position(
            segment=source.segment,
            process=source.process,
            ordinal=source.header.ordinal,
            offset=size,
            entries=position.entries + len(spoken),
            last_seq=seq,
            final=True,
        )

    # One frame --------------------------------------------------------------------------------------------------

    def _entry_of(
        self, source: Source, item: Frame | Damage, seq: int, plain: bytes | None, now_us: int
    ) -> bytes | None:
        """None where the record is an entry already: its first write was reported as failed, and is whole none the less."""
        if isinstance(item, Damage):
            raw = os.pread(source.descriptor, item.end - item.offset, item.offset)
            return self._unreadable(source, seq, raw, "checksum", now_us)
        if plain is None:
            return self._unreadable(source, seq, bytes(item.sealed), "seal", now_us)
        facts, private, replaces = _decode(plain)
        if facts is None:
            return self._unreadable(source, seq, bytes(item.sealed), "facts", now_us)
        writer = Writer(segment=source.segment, seq=seq)
        try:
            text = encode(self._completed(facts, private, writer))
        except CanonicalError:
            return self._unreadable(source, seq, bytes(item.sealed), "canonical", now_us)
        if len(text) > MAX_ENTRY_BYTES:
            return self._unreadable(source, seq, bytes(item.sealed), "too_large", now_us)
        if replaces is not None:
            self.rewrites.extend(replaces)
            if any(self._is_entered(segment, number) for segment, number in replaces):
                self.rewrites.append((source.segment, seq))  # missing here, and no loss
                return None
        self._follow_call(facts, source.segment)
        return text

    def _is_entered(self, segment: str, seq: int) -> bool:
        """
        Whether a frame that is said to be torn was read as a whole one, before this one that replaces it.

        Its segment is older and of the same process, so all of it was read first, and it was locked until this frame was
        written, so its file is still there.
        """
        read = self.after.get(segment) or self._before.get(segment)
        return seq < WAITED and read is not None and self._holds(segment, seq, read.offset)

    def _completed(self, facts: Facts, private: Private | None, writer: Writer) -> Facts:
        """With its writer, and for calls with the reference of the person; what the vault must hold is put aside."""
        if isinstance(facts, (CallIntent, CallImported)):
            subject = None
            if private is not None:
                if private.user is not None:
                    subject = self._vault.subject_for(private.user, at_us=facts.at_us, proposed=private.reference)
                self.private_calls.append(_private_call(facts.id, subject, private))
                if private.content is not None:
                    self._keep(facts.id, "request", private.content)
            return _replace(facts, writer=writer, subject=subject)
        if private is not None:
            if isinstance(facts, CallOutcome) and private.content is not None:
                self._keep(facts.id, "answer", private.content)
            elif isinstance(facts, AccessExported | AccessContent):
                return self._access(facts, private, writer)
            if isinstance(facts, LogOpened):
                self.notes.append((facts.id, "host", str(private.host)))
                self.notes.append((facts.id, "pid", str(private.pid)))
        return _replace(facts, writer=writer)

    def _keep(self, call_id: str, part: Literal["request", "answer"], content: Content) -> None:
        self.contents.append(KeptContent(call_id, part, content))
        self.text_bytes += len(content.text)  # they make a transaction large as entries do

    def _access(self, facts: AccessExported | AccessContent, private: Private, writer: Writer) -> Facts:
        """Who reads, and why, are the operator's own words: the entry refers to them."""
        said = {
            name: words
            for name in ("operator", "reason")
            if (words := getattr(private, name)) is not None and name in facts.__struct_fields__
        }
        self.notes += [(facts.id, name, words) for name, words in said.items()]
        return _replace(facts, writer=writer, **dict.fromkeys(said, facts.id))

    def _follow_call(self, facts: Facts, segment: str) -> None:
        if isinstance(facts, CallIntent):
            self.opened_calls[facts.id] = (segment, facts.at_us)
        elif isinstance(facts, CallOutcome) and self.opened_calls.pop(facts.id, None) is None:
            self.closed_calls.append(facts.id)

    def _unreadable(self, source: Source, seq: int, raw: bytes, reason: str, now_us: int) -> bytes:
        digest = sha256(raw).hexdigest()
        path = self._quarantine / digest
        write_synced(path, raw)
        sync_directory(self._quarantine)  # before the entry that names it
        facts = LogUnreadable(
            v=1,
            id=os.urandom(16).hex(),
            at_us=now_us,
            reason=reason,
            frame_bytes=len(raw),
            frame_digest=digest,
            writer=Writer(segment=source.segment, seq=seq),
        )
        return encode(facts)


def _number_and_content(source: Source, item: Frame | Damage, last_seq: int) -> tuple[int | None, bytes | None]:
    """
    The number of a frame, if it can be believed, and what is in it, if it can be opened.

    A seal that opens vouches for the number. Without it the number itself may be what was changed, and it is believed only
    where it continues the count: a wild one would take the place of another frame, or be no number an entry can have.
    """
    if isinstance(item, Damage):
        return (item.seq if item.seq == last_seq + 1 else None), None
    plain = source.cipher.open(item.seq, item.sealed) if source.cipher is not None else None
    if plain is None and not last_seq < item.seq <= last_seq + _PLAUSIBLE_STEP:
        return None, None
    return item.seq, plain


def _decode(plain: bytes) -> tuple[Facts | None, Private | None, Names]:
    """A frame's content: strictly, which is fast; else value by value; facts are None where that gives no entry."""
    try:
        return _STRICT.decode(plain)
    except _UNREADABLE:
        pass
    try:
        raw, raw_private, raw_replaces = _LOOSE.decode(plain)
    except _UNREADABLE:
        return None, None, None
    private = admit_private(raw_private) if isinstance(raw_private, dict) else None
    try:
        replaces = msgspec.convert(raw_replaces, type=Names)
    except msgspec.ValidationError:
        replaces = None
    return admit(raw), private, replaces


def _private_call(call_id: str, subject: str | None, private: Private) -> PrivateCall:
    return PrivateCall(
        call_id=call_id,
        subject=subject,
        commitment_key=private.commitment_key,
        tenant=private.tenant,
        session_id=private.session,
        purpose=private.purpose,
        tags=private.tags,
        context=private.context,
        base_url=private.base_url,
        path=private.path,
    )


def _losses(
    source: Source,
    position: Position,
    counts: WriterCounts | None,
    named: frozenset[int],
    *,
    size: int,
    now_us: int,
) -> Iterable[LogLoss]:
    """
    What a finished segment acknowledged and does not hold, and what its writer gave up.

    A number that is merely missing between whole frames was never acknowledged. Bytes that are no frame are a loss unless the
    frame was written again, or its writer noted that the write had failed. A number that was acknowledged and lies beyond the
    last frame is gone with the tail. What became `log.unreadable` has its number and is no loss beside that.
    """
    counts = counts or WriterCounts(losses={})
    torn = frozenset(seq for seq in named if seq < WAITED) | counts.failed
    if position.entries != position.last_seq + 1:
        seen, skipped, last_seq = set[int](), 0, -1
        for item in source.read(HEADER_BYTES, size):
            seq, _ = _number_and_content(source, item, last_seq)
            if seq is not None:
                seen.add(seq)
                last_seq = max(last_seq, seq)
            elif not _is_beginning_of(source, item, torn):
                skipped += item.end - item.offset
        # Counted, not listed: a number is 64 bits that somebody else may have chosen.
        written = position.last_seq + 1
        torn_within = {seq for seq in torn if seq < written}
        missing = written - len(seen | torn_within)
        # Of these the journal has some, where a power cut took bytes that had been read before.
        missing = min(missing, written - position.entries - len(torn_within - seen))
        if skipped and missing > 0:
            yield LogLoss(
                v=1,
                id=os.urandom(16).hex(),
                at_us=now_us,
                reason="torn_frame",
                count=min(missing, _MOST),
                skipped_bytes=skipped,
            )
    # Computed, not listed: a page that was damaged may name any number.
    tail = counts.acknowledged - (position.last_seq + 1)
    tail -= sum(position.last_seq < seq < counts.acknowledged for seq in torn)
    if tail > 0:
        yield LogLoss(
            v=1,
            id=os.urandom(16).hex(),
            at_us=now_us,
            reason="missing_tail",
            count=min(tail, _MOST),
            skipped_bytes=max(0, size - position.offset),
        )
    # A kill between writing a record that waited and noting it leaves the name; a damaged frame leaves the note.
    found = max(sum(seq >= WAITED for seq in named), counts.written_after_all)
    for reason, loss in counts.losses.items():
        count = loss.count - found if reason == "process_ended" else loss.count
        if count > 0:
            yield LogLoss(
                v=1,
                id=os.urandom(16).hex(),
                at_us=now_us,
                reason=reason,
                count=min(count, _MOST),
                from_us=min(loss.from_us, _MOST),
                until_us=min(loss.until_us, _MOST),
            )


def _is_beginning_of(source: Source, item: Frame | Damage, torn: frozenset[int]) -> bool:
    """
    Whether these bytes are the beginning of a frame that was not acknowledged.

    It may be as short as a byte; as much of marker and number as is there must be those of a frame known to be torn.
    """
    length = item.end - item.offset
    head = os.pread(source.descriptor, min(length, FRAME_HEAD_BYTES), item.offset)
    sealed_bytes, number = head[MARKER_BYTES : MARKER_BYTES + 4], head[MARKER_BYTES + 4 : MARKER_BYTES + 12]
    return (
        source.header.marker.startswith(head[:MARKER_BYTES])
        and (len(sealed_bytes) < 4 or length < FRAME_HEAD_BYTES + int.from_bytes(sealed_bytes))
        and any(seq.to_bytes(8).startswith(number) for seq in torn)
    )

"""
What a call needs that is random or follows from it: its id, its group's id, its key and both commitments (C8).

Eight small hashes and a system call stand behind each. They say nothing of the call, so a batch is made at once, while
the processor has the code at hand: between two calls the client's own work drives it out. Nothing is made ahead across a
fork: parent and child would tell two calls by one name.
"""

from __future__ import annotations

import os
from typing import Final

from msgspec import Struct

from openrouter_audit.core.commitments import CALL_KEY_BYTES, Commitment, derive_keys

BATCH: Final = 16
_ID_BYTES: Final = 16
_DRAWN: Final = 2 * _ID_BYTES + CALL_KEY_BYTES


class CallIdentity(Struct, frozen=True):
    """Used for one call, once. Printing it shows no key."""

    call_id: str
    """32 hex digits."""
    group: str
    """32 hex digits, for a call that is the first attempt of its group."""
    call_key: bytes
    """32 bytes, from which both commitments' keys are derived."""
    request: Commitment
    response: Commitment

    def __repr__(self) -> str:
        return f"CallIdentity({self.call_id})"


_ready: list[tuple[int, CallIdentity]] = []
"""Threads, finalizers and signal handlers may take from it at once: single operations of the list only."""


def new_identity() -> CallIdentity:
    """An identity that nobody else has or will have."""
    process = os.getpid()
    try:
        while True:
            made_by, identity = _ready.pop()
            if made_by == process:  # else forked without Python's handlers: the parent has it too
                return identity
    except IndexError:
        return _make_ready(process)


def identity_from(drawn: bytes) -> CallIdentity:
    """The identity that follows from 64 bytes, which are to be random."""
    call_key = drawn[2 * _ID_BYTES :]
    keys = derive_keys(call_key)
    return CallIdentity(
        drawn[:_ID_BYTES].hex(),
        drawn[_ID_BYTES : 2 * _ID_BYTES].hex(),
        call_key,
        Commitment(keys.request),
        Commitment(keys.response),
    )


def _make_ready(process: int) -> CallIdentity:
    drawn = os.urandom(BATCH * _DRAWN)
    first, *others = (identity_from(drawn[at : at + _DRAWN]) for at in range(0, len(drawn), _DRAWN))
    if os.getpid() != process:  # a signal handler forked meanwhile, and both sides come by here
        return identity_from(os.urandom(_DRAWN))
    _ready.extend((process, identity) for identity in others)
    return first


os.register_at_fork(after_in_child=_ready.clear)

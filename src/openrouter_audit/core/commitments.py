"""
Commitments to bodies: what an entry says about a prompt or an answer without saying anything.

A plain SHA-256 of a prompt can be guessed from a dictionary and stays personal data. A commitment is an HMAC under a key of
32 random bytes that lives beside the body, outside the tree, and is destroyed with it: then neither a dictionary nor a key
stolen elsewhere tests a guess, and the entry stays what it was. Whoever still has body and key can prove what was said.

One random key is drawn for each call. Request and response keys are derived from it by HKDF-SHA-256 (RFC 5869) with empty
salt, so that one of them can be handed out without the other.

This runs on the path of every call, so HMAC and HKDF are written out over SHA-256 as RFC 2104 and RFC 5869 define them: the
general functions spend more time on looking up their algorithm than on hashing a short body. Tests hold both against the
general ones.
"""

import hmac
from hashlib import sha256
from typing import NamedTuple, Self

CALL_KEY_BYTES = 32
COMMITMENT_LABEL = b"llm-audit/commit/v1\n"
"""In front of every body; no other use of these keys begins so."""
REQUEST_INFO = b"openrouter-audit/commit/request/v1"
RESPONSE_INFO = b"openrouter-audit/commit/response/v1"
_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_PADDING = bytes(_BLOCK_BYTES - CALL_KEY_BYTES)
_SALT_INNER, _SALT_OUTER = bytes(_BLOCK_BYTES).translate(_INNER), bytes(_BLOCK_BYTES).translate(_OUTER)
"""What HMAC under an empty key puts in front: HKDF with empty salt."""
_REQUEST_BLOCK, _RESPONSE_BLOCK = REQUEST_INFO + b"\x01", RESPONSE_INFO + b"\x01"
"""The first block of each of HKDF's two expansions, which is as long as a key."""


class CommitmentKeys(NamedTuple):
    """The two keys of a call. Printing them shows nothing."""

    request: bytes
    response: bytes

    def __repr__(self) -> str:
        return "CommitmentKeys()"


def derive_keys(call_key: bytes) -> CommitmentKeys:
    """
    Request and response key of a call.

    Args:
        call_key: 32 random bytes, new for each call.

    Raises:
        ValueError: The key has another length.
    """
    if len(call_key) != CALL_KEY_BYTES:
        raise ValueError(f"a call key has {CALL_KEY_BYTES} bytes, not {len(call_key)}")
    extracted = sha256(_SALT_OUTER + sha256(_SALT_INNER + call_key).digest()).digest()
    padded = extracted + _PADDING  # HKDF's pseudo-random key, the HMAC key of both expansions
    inner, outer = padded.translate(_INNER), padded.translate(_OUTER)
    return CommitmentKeys(
        sha256(outer + sha256(inner + _REQUEST_BLOCK).digest()).digest(),
        sha256(outer + sha256(inner + _RESPONSE_BLOCK).digest()).digest(),
    )


def commit(key: bytes, body: bytes | bytearray | memoryview) -> bytes:
    """Commitment to a whole body, 32 bytes; `key` is one of `derive_keys`."""
    if len(key) != CALL_KEY_BYTES:
        raise ValueError(f"a commitment key has {CALL_KEY_BYTES} bytes, not {len(key)}")
    padded = key + _PADDING
    inner = sha256(padded.translate(_INNER) + COMMITMENT_LABEL)
    inner.update(body)
    return sha256(padded.translate(_OUTER) + inner.digest()).digest()


def matches(key: bytes, body: bytes | bytearray | memoryview, commitment: bytes) -> bool:
    """Whether a commitment is that of this body under this key."""
    return hmac.compare_digest(commit(key, body), commitment)


class Commitment:
    """Commitment to a body that comes in pieces; how it was cut makes no difference."""

    __slots__ = ("_inner", "_outer_pad")

    def __init__(self, key: bytes) -> None:
        """
        Begin with no body.

        Args:
            key: 32 bytes, one of `derive_keys`.

        Raises:
            ValueError: The key has another length.
        """
        if len(key) != CALL_KEY_BYTES:
            raise ValueError(f"a commitment key has {CALL_KEY_BYTES} bytes, not {len(key)}")
        padded = key + _PADDING
        self._inner = sha256(padded.translate(_INNER) + COMMITMENT_LABEL)
        self._outer_pad = padded.translate(_OUTER)

    def update(self, piece: bytes | bytearray | memoryview) -> Self:
        self._inner.update(piece)
        return self

    def digest(self) -> bytes:
        """32 bytes, over all pieces so far; more may follow."""
        return sha256(self._outer_pad + self._inner.digest()).digest()

    def hexdigest(self) -> str:
        return sha256(self._outer_pad + self._inner.digest()).hexdigest()

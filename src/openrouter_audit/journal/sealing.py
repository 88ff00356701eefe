"""
Nothing plain is ever in the spool.

Each segment has a session key of its own: 32 random bytes, sealed to the journal's public key by HPKE (RFC 9180:
X25519, HKDF-SHA-256, AES-256-GCM) in the segment's header. A capturing process holds the public key alone, so it can
write what it cannot read again after a restart. Frames are AES-256-GCM under the session key; the nonce is the frame's
sequence number, which a segment gives out once, and the segment's name is associated data, so that no frame can pose as
one of another segment or place.

The cryptography is loaded with the first segment, not at the start of an application that may never make a call.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hpke

SEALED_KEY_BYTES: Final = 80
"""Encapsulated X25519 key (32), session key (32) and tag (16)."""
OVERHEAD_BYTES: Final = 16
_INFO = b"openrouter-audit/segment/v1\n"


@cache
def _suite() -> hpke.Suite:
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class SegmentCipher:
    """Seals and opens the frames of one segment. Safe in any thread; not to be used on both sides of a fork."""

    __slots__ = ("_aead", "_invalid", "encrypt", "segment")

    def __init__(self, session_key: bytes, segment: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead, self._invalid = AESGCM(session_key), InvalidTag
        self.encrypt = self._aead.encrypt
        """What `seal` does, for the one caller to whom a function call is dear."""
        self.segment = segment

    def seal(self, seq: int, plain: bytes) -> bytes:
        return self.encrypt(seq.to_bytes(12), plain, self.segment)

    def open(self, seq: int, sealed: bytes | memoryview) -> bytes | None:
        """The plain bytes, or None where they were not sealed at this place of this segment."""
        try:
            return self._aead.decrypt(seq.to_bytes(12), bytes(sealed), self.segment)
        except self._invalid:
            return None


def new_segment_cipher(public_key: bytes, segment: bytes) -> tuple[bytes, SegmentCipher]:
    """A fresh session key, sealed for the segment's header, and the cipher that uses it."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    session_key = os.urandom(32)
    sealed = _suite().encrypt(session_key, X25519PublicKey.from_public_bytes(public_key), _INFO + segment)
    return sealed, SegmentCipher(session_key, segment)


def open_segment_cipher(private_key: bytes, segment: bytes, sealed_key: bytes) -> SegmentCipher | None:
    """The cipher of an existing segment, or None where its key was sealed for another journal."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        session_key = _suite().decrypt(sealed_key, X25519PrivateKey.from_private_bytes(private_key), _INFO + segment)
    except (InvalidTag, ValueError):
        return None
    return SegmentCipher(session_key, segment)

"""
The private keys of a log: two that sign its checkpoints, one that opens its spool.

They are files of 0600 in the home's `keys/`. Whoever can read them can write a second history; the home's owner always
can, which is why a log kept where the application runs proves nothing against that owner (DESIGN section 12) until
somebody else has seen its checkpoints.

A capturing process reads one public key here, at its start; what signs and makes keys is loaded by those who do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openrouter_audit.errors import HomeError
from openrouter_audit.journal.files import write_whole

if TYPE_CHECKING:
    from openrouter_audit.core.notes import SignerKey

SIGNING_FILES: Final = ("log-ed25519", "log-ml-dsa-44")
SEALING_FILE: Final = "sealing"
SEALING_PUBLIC_FILE: Final = "sealing.pub"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKeys:
    """What the sequencer holds and nobody else needs."""

    origin: str
    signers: tuple[SignerKey, ...]
    """Ed25519 and ML-DSA-44, both under the log's name: a policy asks for both."""
    sealing: bytes = field(repr=False)
    """X25519 private key, 32 bytes: opens the session keys of spool segments."""

    def sign(self, *, tree_size: int, root_hash: bytes, at_us: int) -> str:
        """The signed note of a checkpoint, with the time of `at_us` in its ML-DSA cosignature."""
        from openrouter_audit.core.checkpoints import Checkpoint, sign_checkpoint

        checkpoint = Checkpoint(origin=self.origin, tree_size=tree_size, root_hash=root_hash)
        return sign_checkpoint(checkpoint, self.signers, time_s=at_us // 1_000_000).decode()

    def policy(self) -> bytes:
        """What a stranger needs to check this log: its two public keys, no witness yet."""
        from openrouter_audit.core.checkpoints import Policy, encode_policy

        return encode_policy(Policy(logs={self.origin: tuple(signer.verifier_key for signer in self.signers)}))


def create_keys(directory: Path, origin: str) -> LogKeys:
    """
    Make the keys of a new log. Files appear whole or not at all, and existing ones are kept.

    A crash half way leaves some of them; the next call makes the rest.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from openrouter_audit.core.notes import ED25519, ML_DSA_44_COSIGNATURE, SignerKey

    for name, key_type in zip(SIGNING_FILES, (ED25519, ML_DSA_44_COSIGNATURE), strict=True):
        if not (directory / name).exists():
            write_whole(
                directory / name,
                SignerKey(name=origin, key_type=key_type, seed=os.urandom(32)).encode().encode() + b"\n",
            )
    if not (directory / SEALING_FILE).exists():
        write_whole(directory / SEALING_FILE, os.urandom(32).hex().encode() + b"\n")
    keys = load_keys(directory)
    public = X25519PrivateKey.from_private_bytes(keys.sealing).public_key().public_bytes_raw()
    write_whole(directory / SEALING_PUBLIC_FILE, public.hex().encode() + b"\n")
    return keys


def load_keys(directory: Path) -> LogKeys:
    """
    Read the keys of a log.

    Raises:
        HomeError: One is missing or is not a key; nothing can be sequenced, capturing needs only the public one.
    """
    from openrouter_audit.core.notes import SignerKey

    try:
        signers = tuple(SignerKey.decode((directory / name).read_text().strip()) for name in SIGNING_FILES)
        sealing = bytes.fromhex((directory / SEALING_FILE).read_text().strip())
    except (OSError, ValueError) as error:
        raise HomeError(f"the log's keys cannot be read: {type(error).__name__}", home=str(directory.parent)) from None
    return LogKeys(origin=signers[0].name, signers=signers, sealing=sealing)


def load_sealing_public_key(directory: Path) -> bytes:
    """The key that capturing processes seal to, 32 bytes."""
    try:
        key = bytes.fromhex((directory / SEALING_PUBLIC_FILE).read_text().strip())
    except (OSError, ValueError) as error:
        raise HomeError(
            f"the sealing key cannot be read ({error}): openrouter-audit recover tells what to do",
            home=str(directory.parent),
        ) from error
    if len(key) != 32:
        raise HomeError(f"the sealing key has {len(key)} bytes, not 32", home=str(directory.parent))
    return key

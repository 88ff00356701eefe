"""
Proof files, `.tlog-proof`: one entry's place in a log, in a file that needs no network (C2SP tlog-proof).

The file holds the entry's index, the path to the root and a signed checkpoint. It does not hold the entry: whoever shows
the file shows the entry's bytes beside it, and the two fit or they do not. Only a policy says whose checkpoint counts.
"""

from dataclasses import dataclass

from openrouter_audit.core.checkpoints import OpenedCheckpoint, Policy, decode_checkpoint
from openrouter_audit.core.merkle import HASH_BYTES, MAX_PROOF_HASHES, verify_inclusion
from openrouter_audit.core.notes import MAX_NOTE_BYTES, decode_base64, encode_base64, parse_note, parse_size
from openrouter_audit.errors import CheckpointError, NoteError, ProofFileError

HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofFile:
    """What a `.tlog-proof` file says; nothing of it is verified."""

    leaf_index: int
    """Place of the entry, counted from 0."""
    inclusion_path: tuple[bytes, ...]
    """Sibling hashes, 32 bytes each, from the leaf upwards."""
    checkpoint: bytes
    """Signed note, byte for byte."""
    extra: bytes | None = None
    """Free bytes that no signature covers: never a basis for anything."""


def encode_proof(proof: ProofFile) -> bytes:
    """
    Write a proof file.

    Raises:
        ProofFileError: Reading it would not give the same proof.
    """
    lines = [HEADER]
    if proof.extra is not None:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines.append(f"index {proof.leaf_index}")
    lines += map(encode_base64, proof.inclusion_path)
    data = "".join(f"{line}\n" for line in (*lines, "")).encode() + proof.checkpoint
    if decode_proof(data) != proof:
        raise ProofFileError("a proof that does not survive being written")
    return data


def decode_proof(data: bytes) -> ProofFile:
    """
    Read a proof file; says nothing about signatures or the path.

    Raises:
        ProofFileError: It is malformed; so is one without a signed checkpoint.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise ProofFileError(f"a proof file of {len(data)} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
        if not blank or lines.pop(0) != HEADER:
            raise ProofFileError(f"a proof file begins with {HEADER} and has an empty line before its checkpoint")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "))
        if not lines or not lines[0].startswith("index "):
            raise ProofFileError("the index of the entry is missing")
        leaf_index = parse_size(lines.pop(0).removeprefix("index "))
        if len(lines) > MAX_PROOF_HASHES:
            raise ProofFileError(f"a path has at most {MAX_PROOF_HASHES} hashes, this one {len(lines)}")
        inclusion_path = tuple(map(decode_base64, lines))
        decode_checkpoint(parse_note(checkpoint).text)
    except UnicodeDecodeError as error:
        raise ProofFileError("the lines above the checkpoint are ASCII") from error
    except (NoteError, CheckpointError) as error:
        raise ProofFileError(f"proof file: {error}") from error
    if any(len(sibling) != HASH_BYTES for sibling in inclusion_path):
        raise ProofFileError(f"each hash of a path has {HASH_BYTES} bytes")
    return ProofFile(leaf_index=leaf_index, inclusion_path=inclusion_path, checkpoint=checkpoint, extra=extra)


def verify_proof(proof: ProofFile, *, leaf_hash: bytes, policy: Policy) -> OpenedCheckpoint:
    """
    Check that an entry is in the log, as the policy's keys vouch for it.

    Args:
        leaf_hash: `merkle.leaf_hash` of the entry's bytes.

    Raises:
        VerificationError: As `Policy.open_checkpoint` and `merkle.verify_inclusion` raise it.
    """
    opened = policy.open_checkpoint(proof.checkpoint)
    verify_inclusion(
        leaf_hash,
        leaf_index=proof.leaf_index,
        tree_size=opened.checkpoint.tree_size,
        inclusion_path=proof.inclusion_path,
        root_hash=opened.checkpoint.root_hash,
    )
    return opened

"""
Signed notes, the keys that sign them, and cosignatures (C2SP signed-note and tlog-cosignature).

A note is text, one empty line, and signature lines. Whoever reads it knows some keys: lines of other keys mean nothing to
him, a line of a key he knows must verify, and a note without any line of a key he knows is no note at all. This is why a
reader may ignore what he does not know and still cannot be led astray.

A signature line holds four bytes that name the key (its id binds name, type and public key) and then the signature. Three
types are ours: 0x01, Ed25519 over the text; 0x04, an Ed25519 cosignature; 0x06, an ML-DSA-44 cosignature, which outlives
quantum computers. Cosignatures carry a time and mean: at this time this was the largest tree I had seen of this log, and it
extends everything I cosigned before.

All base64 is read strictly: the usual decoders accept a last character whose spare bits are not zero, and then one byte
of a signature line could be altered unnoticed.

Keys are handed in by callers as seeds. `cryptography` is loaded when the first key is used.
"""

import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from openrouter_audit.core.merkle import HASH_BYTES, MAX_TREE_SIZE
from openrouter_audit.errors import CheckpointError, NoteError, SignatureInvalid, SignatureMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

ED25519 = 0x01
ED25519_COSIGNATURE = 0x04
ML_DSA_44_COSIGNATURE = 0x06
SEED_BYTES = 32
"""Of both algorithms: RFC 8032 and FIPS 204 make the whole key from so many bytes."""
MAX_SIGNATURES = 100
"""More lines than this is an attack; the specification asks readers to accept at least 16."""
MAX_NOTE_BYTES = 1_000_000
"""A hundred ML-DSA lines are 330 kB."""
_PUBLIC_KEY_BYTES = {ED25519: 32, ED25519_COSIGNATURE: 32, ML_DSA_44_COSIGNATURE: 1312}
_SIGNATURE_BYTES = {ED25519: 64, ED25519_COSIGNATURE: 64, ML_DSA_44_COSIGNATURE: 2420}
_TIME_BYTES = 8
_LINE_START = "\u2014 "
_KEY_ID_HEX = re.compile(r"[0-9a-f]{8}", re.ASCII)
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_FOREIGN = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
"""Control characters but newline, and lone surrogates, which have no bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line, of whoever."""

    key_name: str
    key_id: bytes
    """First 4 bytes of SHA-256 over name, newline, type byte and public key."""
    signature: bytes
    """What follows the id: the signature, for cosignatures after 8 bytes of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A note taken apart; nothing in it has been verified."""

    text: str
    """Ends in a newline."""
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeHead:
    """The three lines a checkpoint begins with: all that an ML-DSA-44 cosignature can be about."""

    origin: str
    tree_size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A public key under the name it signs with."""

    name: str
    key_type: int
    """`ED25519`, `ED25519_COSIGNATURE` or `ML_DSA_44_COSIGNATURE`."""
    public_key: bytes
    key_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.public_key) != _PUBLIC_KEY_BYTES.get(self.key_type):
            raise NoteError(f"{self.name}: no key of type {self.key_type:#04x} has {len(self.public_key)} bytes")
        object.__setattr__(self, "key_id", compute_key_id(self.name, self.key_type, self.public_key))

    @classmethod
    def decode(cls, text: str) -> Self:
        """
        Read the text of a verifier key, `<name>+<hex id>+<base64 of type and key>`.

        Raises:
            NoteError: It is malformed, of a foreign type, or its id is not that of the key.
        """
        name, hex_id, material = _split_key_text(text)
        key = cls(name=name, key_type=material[0], public_key=material[1:])
        if key.key_id.hex() != hex_id:
            raise NoteError(f"{name}: the key's id is {key.key_id.hex()}, its text says {hex_id}")
        return key

    def encode(self) -> str:
        return _join_key_text(self.name, self.key_id, self.key_type, self.public_key)

    def verify(self, text: str, signature: bytes) -> int | None:
        """
        Check one signature over a note's text.

        Args:
            signature: What the signature line holds after the key id.

        Returns:
            When it was cosigned, in POSIX seconds; None for a signature without time.

        Raises:
            SignatureInvalid: It does not verify, has another length, or says time 0.
            CheckpointError: A cosignature over a text that is not a checkpoint.
        """
        time_s = None
        if self.key_type != ED25519:
            time_s = int.from_bytes(signature[:_TIME_BYTES], "big")
            signature = signature[_TIME_BYTES:]
        if time_s == 0 or len(signature) != _SIGNATURE_BYTES[self.key_type]:
            raise SignatureInvalid(key_name=self.name, key_id=self.key_id)
        self._verify_message(_message(self.name, self.key_type, text, time_s), signature)
        return time_s

    def _verify_message(self, message: bytes, signature: bytes) -> None:
        from cryptography.exceptions import InvalidSignature

        try:
            if self.key_type == ML_DSA_44_COSIGNATURE:
                from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

                MLDSA44PublicKey.from_public_bytes(self.public_key).verify(signature, message)
            else:
                from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

                Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureInvalid(key_name=self.name, key_id=self.key_id) from error


class SignerKey:
    """A private key under the name it signs with. It shows neither seed nor key when printed."""

    __slots__ = ("_private_key", "_seed", "key_type", "name", "verifier_key")

    def __init__(self, *, name: str, key_type: int, seed: bytes) -> None:
        """
        Make the key from its seed.

        Args:
            key_type: `ED25519`, `ED25519_COSIGNATURE` or `ML_DSA_44_COSIGNATURE`.
            seed: 32 secret random bytes.

        Raises:
            NoteError: The name or type is none, or the seed has not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise NoteError(f"{name}: a seed has {SEED_BYTES} bytes, not {len(seed)}")
        if key_type not in _PUBLIC_KEY_BYTES:
            raise NoteError(f"{name}: no key type {key_type:#04x}")
        self.name, self.key_type, self._seed = name, key_type, seed
        self._private_key = _load_private_key(key_type, seed)
        public_key = self._private_key.public_key().public_bytes_raw()
        self.verifier_key = VerifierKey(name=name, key_type=key_type, public_key=public_key)

    @classmethod
    def decode(cls, text: str) -> Self:
        """
        Read the text of a signer key, `PRIVATE+KEY+<name>+<hex id>+<base64 of type and seed>`.

        Raises:
            NoteError: It is malformed, or its id is not that of the key; the message quotes nothing of it.
        """
        prefix = "PRIVATE+KEY+"
        if not text.startswith(prefix):
            raise NoteError("not the text of a signer key")
        name, hex_id, material = _split_key_text(text.removeprefix(prefix))
        key = cls(name=name, key_type=material[0], seed=material[1:])
        if key.verifier_key.key_id.hex() != hex_id:
            raise NoteError(f"{name}: the signer key's id is not that of its seed")
        return key

    def encode(self) -> str:
        """Secret: whoever has this text can sign."""
        return "PRIVATE+KEY+" + _join_key_text(self.name, self.verifier_key.key_id, self.key_type, self._seed)

    def sign(self, text: str, *, time_s: int | None = None) -> NoteSignature:
        """
        Sign the text of a note.

        Args:
            time_s: POSIX seconds, above 0, for a cosignature; signatures of type 0x01 have no time and ignore it.

        Raises:
            NoteError: A cosignature without a time, or over a text that is not a checkpoint.
        """
        prefix = b""
        if self.key_type != ED25519:
            if time_s is None or not 0 < time_s < 1 << 63:
                raise NoteError(f"{self.name}: a cosignature needs its time")
            prefix = time_s.to_bytes(_TIME_BYTES, "big")
        signature = self._private_key.sign(_message(self.name, self.key_type, text, time_s))
        return NoteSignature(key_name=self.name, key_id=self.verifier_key.key_id, signature=prefix + signature)

    def __repr__(self) -> str:
        return f"SignerKey({self.name}+{self.verifier_key.key_id.hex()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSignature:
    """A key that was known and whose signature verified."""

    key: VerifierKey
    time_s: int | None
    """POSIX seconds of a cosignature; None for type 0x01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedNote:
    """A note that at least one known key signed, and none failed to."""

    text: str
    verified: tuple[VerifiedSignature, ...]
    unknown_signatures: int
    """Lines of keys that were not asked for; they say nothing."""


def parse_note(data: bytes) -> SignedNote:
    """
    Take a note apart without verifying anything.

    Raises:
        NoteError: It is not, byte for byte, what `format_note` makes.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"a note of {len(data)} bytes")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteError("a note is UTF-8") from error
    _check_characters(note)
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise NoteError("a note is text, an empty line and signature lines")
    signature_lines = lines[:-1].split("\n")
    if len(signature_lines) > MAX_SIGNATURES:
        raise NoteError(f"{len(signature_lines)} signature lines; {MAX_SIGNATURES} are enough")
    return SignedNote(text=text + "\n", signatures=tuple(decode_signature_line(line) for line in signature_lines))


def format_note(text: str, signatures: Sequence[NoteSignature]) -> bytes:
    """
    Put a note together: the text, an empty line, one line for each signature.

    Raises:
        NoteError: The text does not end in a newline or holds control characters, or there is no signature.
    """
    _check_characters(text)
    if not text.endswith("\n"):
        raise NoteError("the text of a note ends in a newline")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise NoteError(f"a note has 1..{MAX_SIGNATURES} signatures, not {len(signatures)}")
    lines = [encode_signature_line(signature) + "\n" for signature in signatures]
    return (text + "\n" + "".join(lines)).encode()


def open_note(data: bytes, keys: Iterable[VerifierKey]) -> OpenedNote:
    """
    Take a note apart and verify every signature by a known key.

    A second line of one key is ignored, lines of unknown keys are counted.

    Raises:
        NoteError: The note is malformed.
        SignatureInvalid: A known key's signature fails.
        SignatureMissing: None of the keys signed.
    """
    note = parse_note(data)
    known = {(key.name, key.key_id): key for key in keys}
    verified: dict[VerifierKey, VerifiedSignature] = {}
    unknown_signatures = 0
    for line in note.signatures:
        key = known.get((line.key_name, line.key_id))
        if key is None:
            unknown_signatures += 1
        elif key not in verified:
            verified[key] = VerifiedSignature(key=key, time_s=key.verify(note.text, line.signature))
    if not verified:
        raise SignatureMissing("no signature by a known key")
    return OpenedNote(text=note.text, verified=tuple(verified.values()), unknown_signatures=unknown_signatures)


def decode_signature_line(line: str) -> NoteSignature:
    """
    Read one signature line, without its newline.

    Raises:
        NoteError: It is malformed.
    """
    name, space, encoded = line.removeprefix(_LINE_START).partition(" ")
    if not line.startswith(_LINE_START) or not space:
        raise NoteError("a signature line is a dash (U+2014), a key name and base64, one space between each")
    check_key_name(name)
    blob = decode_base64(encoded)
    if len(blob) < 5:
        raise NoteError(f"{name}: a signature of {len(blob)} bytes has no room for a key id")
    return NoteSignature(key_name=name, key_id=blob[:4], signature=blob[4:])


def encode_signature_line(signature: NoteSignature) -> str:
    """One signature line without its newline."""
    check_key_name(signature.key_name)
    return f"{_LINE_START}{signature.key_name} {encode_base64(signature.key_id + signature.signature)}"


def check_key_name(name: str) -> None:
    """
    Refuse what cannot be the name of a key, and so no origin either.

    Raises:
        NoteError: It is empty, or holds a space, a plus or a control character.
    """
    if not name or "+" in name or any(map(str.isspace, name)):
        raise NoteError("a key name is not empty and holds neither space nor plus")
    _check_characters(name)


def compute_key_id(name: str, key_type: int, public_key: bytes) -> bytes:
    """The four bytes that name a key in signature lines; `name` as `check_key_name` lets it pass."""
    return sha256(name.encode() + b"\n" + bytes([key_type]) + public_key).digest()[:4]


def parse_tree_head(text: str) -> TreeHead:
    """
    Read the first three lines of a checkpoint: origin, size, root.

    Raises:
        CheckpointError: They are not that, each in its one spelling.
    """
    lines = text.split("\n")
    if len(lines) < 4:  # the newline of the third line makes a fourth
        raise CheckpointError("a checkpoint has three lines: origin, tree size, root hash")
    origin, size, root = lines[:3]
    try:
        check_key_name(origin)
        root_hash = decode_base64(root)
    except NoteError as error:
        raise CheckpointError(f"checkpoint: {error}") from error
    if len(root_hash) != HASH_BYTES:
        raise CheckpointError(f"a root hash has {HASH_BYTES} bytes, not {len(root_hash)}")
    return TreeHead(origin=origin, tree_size=parse_size(size), root_hash=root_hash)


def parse_size(text: str) -> int:
    """
    Read a tree size or leaf index: decimal, no sign, no leading zero, below 2^63.

    Raises:
        CheckpointError: It is written otherwise.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_TREE_SIZE:
        raise CheckpointError("a tree size is a plain decimal number below 2^63")
    return int(text)


def cosignature_text(text: str, *, time_s: int) -> bytes:
    """What an Ed25519 cosignature (0x04) signs: two lines, then the whole text of the checkpoint."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def subtree_message(*, cosigner: str, time_s: int, origin: str, start: int, end: int, root_hash: bytes) -> bytes:
    """
    What an ML-DSA-44 cosignature (0x06) signs; `start` is 0 and `end` the tree size for a checkpoint.

    Raises:
        NoteError: A name is longer than 255 bytes, for which the message has no room.
    """
    names = (cosigner.encode(), origin.encode())
    if max(map(len, names)) > 255:
        raise NoteError("names in an ML-DSA-44 cosignature have at most 255 bytes")
    parts = (
        b"subtree/v1\n\0",
        bytes([len(names[0])]),
        names[0],
        time_s.to_bytes(8, "big"),
        bytes([len(names[1])]),
        names[1],
        start.to_bytes(8, "big"),
        end.to_bytes(8, "big"),
        root_hash,
    )
    return b"".join(parts)


def decode_base64(text: str) -> bytes:
    """
    Read standard padded base64 in its one canonical spelling.

    Raises:
        NoteError: It is not base64, or encoding it again gives another text.
    """
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:  # also binascii.Error and UnicodeEncodeError
        raise NoteError("not base64") from error
    if encode_base64(data) != text:
        raise NoteError("base64 in another spelling than its own")
    return data


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _message(name: str, key_type: int, text: str, time_s: int | None) -> bytes:
    """The bytes a key of this type signs for a note's text."""
    if time_s is None or key_type == ED25519:
        return text.encode()
    if key_type == ED25519_COSIGNATURE:
        parse_tree_head(text)
        return cosignature_text(text, time_s=time_s)
    head = parse_tree_head(text)
    return subtree_message(
        cosigner=name, time_s=time_s, origin=head.origin, start=0, end=head.tree_size, root_hash=head.root_hash
    )


def _load_private_key(key_type: int, seed: bytes) -> "Ed25519PrivateKey | MLDSA44PrivateKey":
    if key_type == ML_DSA_44_COSIGNATURE:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return MLDSA44PrivateKey.from_seed_bytes(seed)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _split_key_text(text: str) -> tuple[str, str, bytes]:
    """Name, id in hex, and type byte with key; split at most twice, because base64 may contain a plus."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _KEY_ID_HEX.fullmatch(parts[1]):
        raise NoteError("a key text is a name, eight hex digits and base64, joined by plus")
    check_key_name(parts[0])
    material = decode_base64(parts[2])
    if not material:
        raise NoteError("a key text without a key")
    return parts[0], parts[1], material


def _join_key_text(name: str, key_id: bytes, key_type: int, material: bytes) -> str:
    return f"{name}+{key_id.hex()}+{encode_base64(bytes([key_type]) + material)}"


def _check_characters(text: str) -> None:
    if text.startswith("\ufeff") or _FOREIGN.search(text):
        raise NoteError("a note holds no control characters but newlines, no byte order mark and no half characters")

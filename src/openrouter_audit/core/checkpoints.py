"""
Checkpoints, what the log commits itself to, and the policy a reader trusts.

A checkpoint is three lines, origin, tree size and root hash, signed as a note. Our logs sign each with two keys of one
name: Ed25519, which everybody can check, and ML-DSA-44, which will still mean something after quantum computers. The time
of a checkpoint is the one inside the ML-DSA-44 signature.

A policy is what a reader brings along: pinned keys of logs, witnesses, how many of them must agree, and the least size a
log is known to have reached. Every key pinned for an origin must have signed; a checkpoint that only one of two signed is
refused, so that breaking one algorithm does not break the log. Without a policy nothing is proven.

Line by line a policy is that of C2SP tlog-policy, with one kind of our own: `size <origin> <tree size> <base64 root>`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from openrouter_audit.core.merkle import HASH_BYTES
from openrouter_audit.core.notes import (
    ED25519,
    ED25519_COSIGNATURE,
    ML_DSA_44_COSIGNATURE,
    NoteSignature,
    SignerKey,
    VerifiedSignature,
    VerifierKey,
    check_key_name,
    decode_base64,
    encode_base64,
    format_note,
    open_note,
    parse_note,
    parse_size,
    parse_tree_head,
)
from openrouter_audit.errors import (
    CheckpointError,
    NoteError,
    PolicyError,
    QuorumMissing,
    RolledBack,
    RootMismatch,
    SignatureMissing,
    UnknownOrigin,
)

MAX_POLICY_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log in three lines."""

    origin: str
    """Names the log for ever, for example `audit.example.com/log1`."""
    tree_size: int
    """Number of entries."""
    root_hash: bytes
    """Root over all of them, 32 bytes."""
    extension_lines: tuple[str, ...] = ()
    """Further lines of foreign logs; ours have none, because ML-DSA-44 cosignatures do not cover them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint that every pinned key of its log signed."""

    checkpoint: Checkpoint
    verified: tuple[VerifiedSignature, ...]
    """The signatures that were checked, of the log and of witnesses."""
    note: bytes
    """The signed note as it was read: the evidence to print when two of them contradict each other."""

    @property
    def time_s(self) -> int | None:
        """Earliest time in a signature of the log's own, POSIX seconds; None where it signed without time."""
        origin = self.checkpoint.origin
        return min((v.time_s for v in self.verified if v.key.name == origin and v.time_s is not None), default=None)


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """
    The text that is signed.

    Raises:
        CheckpointError: Reading it would not give the same checkpoint.
    """
    head = (checkpoint.origin, str(checkpoint.tree_size), encode_base64(checkpoint.root_hash))
    text = "".join(f"{line}\n" for line in (*head, *checkpoint.extension_lines))
    if decode_checkpoint(text) != checkpoint:
        raise CheckpointError("a checkpoint with a newline in it")
    return text


def decode_checkpoint(text: str) -> Checkpoint:
    """
    Read the text of a checkpoint; says nothing about signatures.

    Raises:
        CheckpointError: It is malformed.
    """
    head = parse_tree_head(text)
    *extension_lines, after_last_newline = text.split("\n")[3:]
    if after_last_newline or not all(extension_lines):
        raise CheckpointError("a checkpoint ends in a newline, and none of its lines is empty")
    return Checkpoint(
        origin=head.origin,
        tree_size=head.tree_size,
        root_hash=head.root_hash,
        extension_lines=tuple(extension_lines),
    )


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[SignerKey], *, time_s: int) -> bytes:
    """
    Make the signed note of a checkpoint.

    Args:
        signers: The log's keys; ours are one of type 0x01 and one of type 0x06.
        time_s: POSIX seconds for the signatures that carry a time.

    Raises:
        CheckpointError: The checkpoint is malformed, or a key's name is not the origin.
        NoteError: There is no signer, or the time is not above 0.
    """
    text = encode_checkpoint(checkpoint)
    for signer in signers:
        if signer.name != checkpoint.origin:
            raise CheckpointError(f"the log {checkpoint.origin} does not sign as {signer.name}")
    return format_note(text, [signer.sign(text, time_s=time_s) for signer in signers])


def add_signatures(note: bytes, signatures: Iterable[NoteSignature]) -> bytes:
    """
    Put cosignatures under a signed note, after those it has.

    Raises:
        NoteError: The note is malformed, or there would be too many lines.
    """
    parsed = parse_note(note)
    return format_note(parsed.text, [*parsed.signatures, *signatures])


def open_checkpoint(
    note: bytes, *, log_keys: Sequence[VerifierKey], witness_keys: Sequence[VerifierKey] = ()
) -> OpenedCheckpoint:
    """
    Read a checkpoint and require that each of the log's keys signed it.

    Args:
        log_keys: All must have signed; for our logs the 0x01 and the 0x06 key. Their name is the origin.
        witness_keys: May have signed; who did is in the answer, who failed to makes the note invalid.

    Raises:
        NoteError: The note is malformed, or `log_keys` is empty.
        SignatureInvalid: A signature by one of the keys fails.
        SignatureMissing: A key of the log did not sign.
        CheckpointError: The text is not a checkpoint of the log with this name.
    """
    if not log_keys:
        raise NoteError("a checkpoint is opened with the keys of its log; none was given")
    opened = open_note(note, [*log_keys, *witness_keys])
    signed_by = {verified.key for verified in opened.verified}
    for key in log_keys:
        if key not in signed_by:
            raise SignatureMissing(f"{key.name}+{key.key_id.hex()} did not sign", key_name=key.name, key_id=key.key_id)
    checkpoint = decode_checkpoint(opened.text)
    if any(key.name != checkpoint.origin for key in log_keys):
        raise CheckpointError(f"the checkpoint is of {checkpoint.origin}, its keys are of another log")
    return OpenedCheckpoint(checkpoint=checkpoint, verified=opened.verified, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Witnesses or groups of which so many must agree."""

    threshold: int
    """1 for `any`, the number of members for `all`."""
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSize:
    """A tree that is known to have existed; a smaller one is a rollback."""

    tree_size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    What a reader trusts. Make one by `decode_policy`, which holds its parts against each other.

    Names are unique over witnesses and groups, and each is member of one group at most.
    """

    logs: Mapping[str, tuple[VerifierKey, ...]]
    """Origin to the keys that must all sign."""
    witnesses: Mapping[str, VerifierKey] = field(default_factory=dict)
    """Name within the policy to key."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str | None = None
    """A witness or group; None where `quorum none` says that none is asked for."""
    least_sizes: Mapping[str, LeastSize] = field(default_factory=dict)
    """Origin to the least tree."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """Key text to the address that stands behind it in the policy."""

    def open_checkpoint(self, note: bytes) -> OpenedCheckpoint:
        """
        Read a checkpoint of any pinned log and hold it against everything the policy asks.

        Raises:
            UnknownOrigin: No key is pinned for the log.
            NoteError: The note is malformed; or, as SignatureInvalid and SignatureMissing, not signed as it must be.
            CheckpointError: The text is not a checkpoint.
            QuorumMissing: Too few witnesses cosigned.
            RolledBack: The tree is smaller than the least one.
            RootMismatch: It has the least size and another root.
        """
        origin = parse_tree_head(parse_note(note).text).origin
        if origin not in self.logs:
            raise UnknownOrigin(origin=origin)
        opened = open_checkpoint(note, log_keys=self.logs[origin], witness_keys=tuple(self.witnesses.values()))
        self._require_quorum(opened)
        self._require_least_size(opened.checkpoint)
        return opened

    def _require_quorum(self, opened: OpenedCheckpoint) -> None:
        signed = {verified.key for verified in opened.verified}
        agreeing = {name for name, key in self.witnesses.items() if key in signed}
        cosigned_by = tuple(sorted(agreeing))
        for name, group in self.groups.items():  # members stand above their group, so one pass is enough
            if sum(member in agreeing for member in group.members) >= group.threshold:
                agreeing.add(name)
        if self.quorum is not None and self.quorum not in agreeing:
            raise QuorumMissing(quorum=self.quorum, cosigned_by=cosigned_by)

    def _require_least_size(self, checkpoint: Checkpoint) -> None:
        least = self.least_sizes.get(checkpoint.origin)
        if least is None:
            return
        if checkpoint.tree_size < least.tree_size:
            raise RolledBack(origin=checkpoint.origin, tree_size=checkpoint.tree_size, least_size=least.tree_size)
        if checkpoint.tree_size == least.tree_size and checkpoint.root_hash != least.root_hash:
            raise RootMismatch(tree_size=least.tree_size, expected=least.root_hash, computed=checkpoint.root_hash)


def decode_policy(data: bytes) -> Policy:
    """
    Read a policy.

    Raises:
        PolicyError: A line is of no known kind, a name or key stands twice, a member is not defined above, or there is no
            log or not exactly one quorum. The error names the line.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"a policy of {len(data)} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError("a policy is UTF-8") from error
    if not text.endswith("\n"):
        raise PolicyError("the last line is not complete")
    reader = _PolicyReader()
    for number, line in enumerate(text[:-1].split("\n"), start=1):
        reader.read_line(number, line)
    return reader.finish()


def encode_policy(policy: Policy) -> bytes:
    """
    Write a policy: logs, least sizes, witnesses, groups, quorum; comments are not kept.

    Raises:
        PolicyError: Reading it would not give the same policy.
    """

    def key_text(key: VerifierKey) -> str:
        text = key.encode()
        return f"{text} {policy.urls[text]}" if text in policy.urls else text

    lines = [f"log {key_text(key)}" for keys in policy.logs.values() for key in keys]
    for origin, least in policy.least_sizes.items():
        lines.append(f"size {origin} {least.tree_size} {encode_base64(least.root_hash)}")
    lines += [f"witness {name} {key_text(key)}" for name, key in policy.witnesses.items()]
    lines += [f"group {name} {group.threshold} {' '.join(group.members)}" for name, group in policy.groups.items()]
    lines.append(f"quorum {'none' if policy.quorum is None else policy.quorum}")
    data = "".join(f"{line}\n" for line in lines).encode()
    if decode_policy(data) != policy:
        raise PolicyError("a policy that does not survive being written")
    return data


class _PolicyReader:
    """Collects the lines of one policy; knows the number of the line it reads for its errors."""

    def __init__(self) -> None:
        self.number = 0
        self.logs: dict[str, tuple[VerifierKey, ...]] = {}
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.quorums: list[str] = []
        self.least_sizes: dict[str, LeastSize] = {}
        self.urls: dict[str, str] = {}
        self.public_keys: set[bytes] = set()
        self.used: set[str] = set()

    def read_line(self, number: int, line: str) -> None:
        self.number = number
        if any(char < " " and char != "\t" for char in line) or "\ufeff" in line:
            self.refuse("a control character")
        words = [word for word in line.replace("\t", " ").split(" ") if word]
        if not words or words[0].startswith("#"):
            return
        try:
            match words:
                case ["log", key, *url]:
                    self.add_log(key, url)
                case ["witness", name, key, *url]:
                    self.add_witness(name, key, url)
                case ["group", name, threshold, *members]:
                    self.add_group(name, threshold, members)
                case ["quorum", name]:
                    self.add_quorum(name)
                case ["size", origin, size, root]:
                    self.add_least_size(origin, size, root)
                case _:
                    self.refuse("not a line of a policy")
        except (NoteError, CheckpointError) as error:
            raise PolicyError(str(error), line_number=number) from error

    def add_log(self, text: str, url: list[str]) -> None:
        key = self.add_key(text, url, allowed=(ED25519, ML_DSA_44_COSIGNATURE))
        keys = self.logs.get(key.name, ())
        if any(key.key_type == other.key_type for other in keys):
            self.refuse(f"{key.name} has a second key of type {key.key_type:#04x}")
        self.logs[key.name] = (*keys, key)

    def add_witness(self, name: str, text: str, url: list[str]) -> None:
        self.define(name)
        self.witnesses[name] = self.add_key(text, url, allowed=(ED25519_COSIGNATURE, ML_DSA_44_COSIGNATURE))

    def add_group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            self.use(member)
        self.define(name)
        count = {"any": 1, "all": len(members)}.get(threshold)
        count = parse_size(threshold) if count is None else count
        if not 1 <= count <= len(members):
            self.refuse(f"group {name}: {threshold} of {len(members)} members")
        self.groups[name] = Group(threshold=count, members=tuple(members))

    def add_quorum(self, name: str) -> None:
        if self.quorums:
            self.refuse("a second quorum")
        if name != "none" and name not in self.witnesses and name not in self.groups:
            self.refuse(f"{name} is not defined above")
        self.quorums.append(name)

    def add_least_size(self, origin: str, size: str, root: str) -> None:
        if origin not in self.logs:
            self.refuse(f"no key of {origin} stands above")
        if origin in self.least_sizes:
            self.refuse(f"a second size of {origin}")
        root_hash = decode_base64(root)
        if len(root_hash) != HASH_BYTES:
            self.refuse("a root hash has not 32 bytes")
        self.least_sizes[origin] = LeastSize(tree_size=parse_size(size), root_hash=root_hash)

    def add_key(self, text: str, url: list[str], *, allowed: tuple[int, ...]) -> VerifierKey:
        key = VerifierKey.decode(text)
        if key.key_type not in allowed:
            self.refuse(f"{key.name}: a key of type {key.key_type:#04x} does not belong here")
        if key.public_key in self.public_keys:
            self.refuse(f"{key.name}: the same key stands twice")
        if len(url) > 1:
            self.refuse("more than one address")
        self.public_keys.add(key.public_key)
        if url:
            self.urls[text] = url[0]
        return key

    def define(self, name: str) -> None:
        check_key_name(name)
        if name in self.witnesses or name in self.groups or name == "none":
            self.refuse(f"the name {name} is taken")

    def use(self, member: str) -> None:
        if member not in self.witnesses and member not in self.groups:
            self.refuse(f"{member} is not defined above")
        if member in self.used:
            self.refuse(f"{member} is used twice")
        self.used.add(member)

    def finish(self) -> Policy:
        if not self.logs:
            raise PolicyError("no log is named")
        if not self.quorums:
            raise PolicyError("no quorum is named; `quorum none` says that none is asked for")
        return Policy(
            logs=self.logs,
            witnesses=self.witnesses,
            groups=self.groups,
            quorum=None if self.quorums == ["none"] else self.quorums[0],
            least_sizes=self.least_sizes,
            urls=self.urls,
        )

    def refuse(self, why: str) -> NoReturn:
        raise PolicyError(why, line_number=self.number)

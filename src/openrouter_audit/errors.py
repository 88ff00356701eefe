"""
Every exception raised on purpose.

    OpenRouterAuditError
    ├── ConfigError (ValueError)         settings nobody can act on; nothing was started
    │   └── PatternError                 a pattern of one's own was refused
    ├── ExtraMissing (ImportError)       what was asked for needs an extra that is not installed
    ├── HomeError                        the home folder cannot be used
    ├── KeyMissing                       a key is needed and was not given
    ├── AlreadyInstalled                 `install()` with another home
    ├── AuditUnavailable                 nothing was sent
    ├── ContentBlocked                   nothing was sent
    ├── SpoolError                       a record is not in the spool
    ├── TelemetryUnavailable             not known to be told; it will be told again
    ├── JournalUnavailable               nothing was written
    │   └── FenceLost                    nothing was written, because somebody else wrote first
    ├── CommitUnknown                    all of it or none of it was written
    ├── FlushTimeout (TimeoutError)      spooled, not yet known to be committed
    ├── CanonicalError (ValueError)      a value has no canonical bytes, or bytes no canonical value
    └── VerificationError (ValueError)   nothing may be concluded from what was shown
        ├── RootMismatch                 a proof leads to another root
        ├── TileError                    a tile, tile path or entry bundle is malformed
        ├── NoteError                    a signed note or a key text is malformed
        │   ├── SignatureInvalid         a known key's signature fails
        │   └── SignatureMissing         a required key did not sign
        ├── CheckpointError              a checkpoint's text is malformed
        ├── ProofFileError               a `.tlog-proof` file is malformed
        ├── PolicyError                  a policy is malformed
        ├── UnknownOrigin                the policy does not name this log
        ├── QuorumMissing                too few witnesses cosigned
        └── RolledBack                   a smaller tree than the one pinned

Whoever catches one reads in its docstring what is then true, and finds in its attributes what to do next.
"""


class OpenRouterAuditError(Exception):
    """The root of all that this package raises on purpose."""


class ConfigError(OpenRouterAuditError, ValueError):
    """A setting is unknown or has a value that cannot be meant; nothing was started."""

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting
        """Dotted name as in `config.toml`, for example `enrich.scope`; None where no single one is at fault."""


class PatternError(ConfigError):
    """A pattern of one's own for redaction was refused; nothing is redacted by a policy that holds it."""

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(f"the pattern {name!r} is refused: {reason}", setting="redact.patterns")
        self.name, self.reason = name, reason


class ExtraMissing(OpenRouterAuditError, ImportError):
    """A library of an extra is not installed; nothing was done, and nothing was kept unredacted in its stead."""

    def __init__(self, *, extra: str, library: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'openrouter-audit[{extra}]'")
        self.extra, self.library = extra, library


class HomeError(OpenRouterAuditError):
    """The home folder is missing, not ours, on a file system without locks, or damaged; nothing was changed in it."""

    def __init__(self, message: str, *, home: str | None = None) -> None:
        super().__init__(message)
        self.home = home
        """Path of the folder, as text."""


class TelemetryUnavailable(OpenRouterAuditError):
    """An OpenTelemetry receiver does not take what it is told, or we cannot tell; the log has it, and it will be told again."""


class KeyMissing(OpenRouterAuditError):
    """A key is needed and none was given; nothing was signed, opened or asked."""

    def __init__(self, message: str, *, key_hash: str | None = None) -> None:
        super().__init__(message)
        self.key_hash = key_hash
        """SHA-256 of the wanted API key in hex where that is what is missing; never the key."""


class AlreadyInstalled(OpenRouterAuditError):
    """`install()` was called with another home than the one in use; the first installation goes on unchanged."""

    def __init__(self, *, home: str, requested: str) -> None:
        super().__init__(f"already recording into {home}; uninstall() before installing into {requested}")
        self.home, self.requested = home, requested


class AuditUnavailable(OpenRouterAuditError):
    """The intent could not be recorded, and the mode forbids calls without a record: nothing was sent."""

    def __init__(self, message: str, *, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.reason = reason
        """One word for counters, for example `full`, `readonly`, `closed`."""
        self.retry_after_s = retry_after_s
        """Seconds after which a new try makes sense; the gateway's `Retry-After`."""


class ContentBlocked(OpenRouterAuditError):
    """The request holds what `redact.action = "block"` forbids to send: nothing was sent, and the log says so."""

    def __init__(self, *, kinds: tuple[str, ...], call_id: str) -> None:
        super().__init__(f"nothing was sent: the request holds {', '.join(kinds)} (call {call_id})")
        self.kinds = kinds
        """Classes of what was found, never what it is; `WITHHELD` where the request could not be looked through."""
        self.call_id = call_id


class SpoolError(OpenRouterAuditError):
    """A record was not taken by the spool; whatever of it reached the file is unacknowledged and skipped by readers."""

    def __init__(self, message: str, *, reason: str, errno: int | None = None, seq: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.errno = reason, errno
        self.seq = seq
        """The number the unacknowledged frame had in its segment."""


class JournalUnavailable(OpenRouterAuditError):
    """The journal did not take a batch: nothing was written, and the same batch may be tried again."""


class FenceLost(JournalUnavailable):
    """Another sequencer committed between our read and our write: nothing of ours was written; read again."""


class CommitUnknown(OpenRouterAuditError):
    """
    A commit ended without an answer: all of the batch was written, or none of it.

    Read the tree size anew before anything else is appended.
    """

    def __init__(self, message: str, *, expected_size: int | None = None) -> None:
        super().__init__(message)
        self.expected_size = expected_size
        """Tree size before the batch; the journal now has this size, or this size and the whole batch."""


class FlushTimeout(OpenRouterAuditError, TimeoutError):
    """`flush` ran out of time: every record is in the spool, and some are not yet known to be committed."""

    def __init__(self, message: str, *, pending: int | None = None) -> None:
        super().__init__(message)
        self.pending = pending
        """Records still waiting where they could be counted."""


class CanonicalError(OpenRouterAuditError, ValueError):
    """A value has no canonical form (float, big integer, foreign key), or bytes are not one; nothing was encoded."""


class VerificationError(OpenRouterAuditError, ValueError):
    """What was shown proves nothing: it is malformed, incomplete or contradicts itself."""


class RootMismatch(VerificationError):
    """The root computed from a proof is not the root in the checkpoint."""

    def __init__(self, *, tree_size: int, expected: bytes, computed: bytes) -> None:
        super().__init__(f"tree size {tree_size}: checkpoint {expected.hex()}, computed {computed.hex()}")
        self.tree_size, self.expected, self.computed = tree_size, expected, computed


class TileError(VerificationError):
    """A tile, a tile path or an entry bundle does not have the one form it may have."""


class NoteError(VerificationError):
    """A signed note, a signature line or a key text does not have the one form it may have."""


class SignatureInvalid(NoteError):
    """A key that is trusted is named in a signature that fails: the note was changed, or signed by somebody else."""

    def __init__(self, *, key_name: str, key_id: bytes) -> None:
        super().__init__(f"signature by {key_name}+{key_id.hex()} does not verify")
        self.key_name, self.key_id = key_name, key_id


class SignatureMissing(NoteError):
    """A note lacks the signature of a key that must sign; it may be genuine and is not proven to be."""

    def __init__(self, message: str, *, key_name: str | None = None, key_id: bytes | None = None) -> None:
        super().__init__(message)
        self.key_name, self.key_id = key_name, key_id


class CheckpointError(VerificationError):
    """The text of a checkpoint does not have the one form it may have."""


class ProofFileError(VerificationError):
    """A `.tlog-proof` file does not have the one form it may have."""


class PolicyError(VerificationError):
    """A policy cannot be read; without one nothing can be proven, so nothing was checked."""

    def __init__(self, message: str, *, line_number: int | None = None) -> None:
        super().__init__(message if line_number is None else f"policy line {line_number}: {message}")
        self.line_number = line_number
        """Counted from 1; None where the fault is that of the whole."""


class UnknownOrigin(VerificationError):
    """The policy pins no key for this log; its signatures were not looked at."""

    def __init__(self, *, origin: str) -> None:
        super().__init__(f"no key is pinned for the log {origin!r}")
        self.origin = origin


class QuorumMissing(VerificationError):
    """The log signed, and fewer witnesses cosigned than the policy asks for."""

    def __init__(self, *, quorum: str, cosigned_by: tuple[str, ...]) -> None:
        super().__init__(f"quorum {quorum!r} is not met by {', '.join(cosigned_by) or 'no witness'}")
        self.quorum, self.cosigned_by = quorum, cosigned_by


class RolledBack(VerificationError):
    """A checkpoint, properly signed, is smaller than a tree that is known to have existed."""

    def __init__(self, *, origin: str, tree_size: int, least_size: int) -> None:
        super().__init__(f"{origin}: tree size {tree_size} is below the pinned {least_size}")
        self.origin, self.tree_size, self.least_size = origin, tree_size, least_size

"""
The folder everything lives in (C11), and the making of it.

Nobody needs to run `init`: the first open makes keys, policy, an empty journal with a signed checkpoint of size 0, and
the sub-folders. It does so under a lock on the folder itself, step by step, each step leaving a state that the next
opener completes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from openrouter_audit.errors import HomeError, JournalUnavailable
from openrouter_audit.journal.files import locked_directory, make_directory, sync_directory, write_all, write_whole
from openrouter_audit.journal.forks import no_fork

if TYPE_CHECKING:
    from openrouter_audit.journal.sqlite import Head

_FOREIGN_FILE_SYSTEMS: Final = frozenset((
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "drvfs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "ocfs2", "gfs2", "panfs",
))  # fmt: skip
"""As the kernel names them; `virtiofs` is FUSE over another wire."""
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Home:
    """Names of the files of one home."""

    path: Path

    @classmethod
    def locate(cls, home: str | os.PathLike[str] | None = None) -> Self:
        """The home asked for, else `$OPENROUTER_AUDIT_HOME`, else the XDG data folder."""
        chosen = home or os.environ.get("OPENROUTER_AUDIT_HOME")
        if not chosen:
            data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
            chosen = Path(data) / "openrouter-audit"
        return cls(Path(chosen).expanduser().absolute())

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.db"

    @property
    def vault_path(self) -> Path:
        return self.path / "vault.db"

    @property
    def reports_path(self) -> Path:
        return self.path / "reports.db"

    @property
    def spool_dir(self) -> Path:
        return self.path / "spool"

    @property
    def state_dir(self) -> Path:
        return self.path / "state"

    @property
    def quarantine_dir(self) -> Path:
        return self.path / "quarantine"

    @property
    def keys_dir(self) -> Path:
        return self.path / "keys"

    @property
    def policy_path(self) -> Path:
        return self.path / "policy"

    @property
    def lease_path(self) -> Path:
        return self.path / "lease"

    @property
    def head_path(self) -> Path:
        return self.path / "head"

    @property
    def former_dir(self) -> Path:
        """Logs that came before this one, `1` and so on: see `recovery`."""
        return self.path / "former"

    @property
    def succession_dir(self) -> Path:
        """A successor log that is whole and not yet in its place; while it stands here, nothing is signed."""
        return self.path / "successor"

    @property
    def backup_path(self) -> Path:
        """What a backup says of itself. Where it stands in a home, that home was restored, and nothing is signed."""
        return self.path / "backup.json"

    @property
    def unwatched_path(self) -> Path:
        """Hosts that look like OpenRouter and are not watched, one a line: a hint for `doctor`."""
        return self.path / "unwatched"

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def exists(self) -> bool:
        """Whether a log was made here. The head file is the last step of making one."""
        return self.head_path.exists()

    def ensure(self, *, origin: str | None = None) -> None:
        """
        Make what is missing.

        Raises:
            HomeError: The folder cannot be used, or a log of another origin is already here; nothing was changed.
        """
        if self.exists and origin is None:
            return
        try:
            make_directory(self.path, mode=0o700)
            refuse_foreign_file_system(self.path)
            with locked_directory(self.path):
                self._make(origin)
        except OSError as error:
            raise HomeError(f"{self.path} cannot be used: {error.strerror}", home=str(self.path)) from error
        except JournalUnavailable as error:
            raise HomeError(f"{self.path} cannot be used: {error}", home=str(self.path)) from error

    def _make(self, origin: str | None) -> None:
        """Each step may be the last before a crash; the next opener finds no head file and goes through all again."""
        # A process that only captures, on a home that is there, never loads a database.
        from openrouter_audit.core.merkle import EMPTY_ROOT
        from openrouter_audit.journal.keys import create_keys
        from openrouter_audit.journal.sqlite import Head, SqliteJournal
        from openrouter_audit.journal.vault import Vault

        if self.succession_dir.exists() or (self.vault_path.exists() and not self.journal_path.exists()):
            # The journal is made before the vault: a vault alone means that a journal was here, and signed.
            raise HomeError(f"{self.path} lacks its journal: run openrouter-audit recover", home=str(self.path))
        self.path.chmod(0o700)
        for directory in (self.keys_dir, self.spool_dir, self.state_dir, self.quarantine_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.path)  # a policy must not outlast the folder of the keys it names
        begun = _begun_origin(self.keys_dir)
        keys = create_keys(self.keys_dir, begun or origin or f"openrouter-audit.local/{uuid.uuid4()}")
        if origin is not None and keys.origin != origin:
            raise HomeError(f"{self.path} already holds the log {keys.origin}", home=str(self.path))
        if self.exists:
            return
        if not self.policy_path.exists():
            write_whole(self.policy_path, keys.policy())
        at_us = time.time_ns() // 1000
        note = keys.sign(tree_size=0, root_hash=EMPTY_ROOT, at_us=at_us)
        empty = Head(origin=keys.origin, tree_size=0, root_hash=EMPTY_ROOT, at_us=at_us, note=note, edge=b"")
        with SqliteJournal.create(self.journal_path, empty) as journal:
            head = journal.head()
        Vault.open(self.vault_path).close()
        write_whole(self.head_path, _head_line(head))  # durable: without it nobody knows that a log is here

    def write_head(self, head: Head) -> None:
        """
        Keep size and root outside the database, so that a restored older database is noticed (DESIGN section 6).

        Not synced: the journal is, and a head behind its journal is the ordinary state after a crash.
        """
        partial = self.path / "head.tmp"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, _head_line(head))
        finally:
            os.close(descriptor)
        partial.rename(self.head_path)

    def refuse_unfit(self) -> None:
        """
        Refuse to sequence a home that was restored from a backup, or whose recovery was begun and not ended.

        Raises:
            HomeError: It is one; `openrouter-audit recover` makes it fit.
        """
        if self.succession_dir.exists():
            why = "a recovery was begun here and not ended"
        elif self.backup_path.exists():
            why = f"{self.backup_path.name} says that this is a backup; the log it was made of may have gone on"
        else:
            return
        raise HomeError(f"{why}: run openrouter-audit recover", home=str(self.path))

    def read_head(self) -> tuple[str, int, str] | None:
        """Origin, size and base64 root of the newest commit known outside the journal; None where unreadable."""
        try:
            origin, size, root = self.head_path.read_text().split()
            return origin, int(size), root
        except (OSError, ValueError):
            return None


class Lease:
    """
    At most one sequencer at a time, to save wasted work; nothing depends on it being right (DESIGN section 2.3).

    A flock on an open file: it ends with the process, and is given up in forked children, which inherit it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._pid = 0

    @property
    def held(self) -> bool:
        return self._descriptor >= 0 and self._pid == os.getpid()

    def acquire(self) -> bool:
        """
        Try to take it; False where another process has it.

        Raises:
            HomeError: The system does not let us ask; nobody's lease has changed.
        """
        if self.held:
            return True
        self.release()  # what was inherited by a fork without handlers
        try:
            with no_fork():
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if isinstance(error, BlockingIOError):
                return False
            raise HomeError(f"the lease cannot be taken: {error.strerror}", home=str(self._path.parent)) from error
        self._pid = os.getpid()
        with contextlib.suppress(OSError):  # who has it is told as a courtesy, also by a full disk that cannot tell
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{self._pid}\n".encode(), 0)
        return True

    def release(self) -> None:
        """Give it up. In a forked child this closes the copy and leaves the parent's lease alone."""
        self._pid = 0
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Pid of the process that has the lease now (or wrote its pid last), None where nobody has it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).strip()
            return int(text) if text.isdigit() else -1
        finally:
            os.close(descriptor)
        return None


def _begun_origin(keys_dir: Path) -> str | None:
    """The origin of a key that a crash left alone: under another one the second key would belong to another log."""
    from openrouter_audit.core.notes import SignerKey

    for path in keys_dir.glob("log-*"):
        if path.suffix != ".tmp":
            with contextlib.suppress(ValueError):  # not a key: loading it says so
                return SignerKey.decode(path.read_text().strip()).name
    return None


def _head_line(head: Head) -> bytes:
    from openrouter_audit.core.notes import encode_base64

    return f"{head.origin} {head.tree_size} {encode_base64(head.root_hash)}\n".encode()


def refuse_foreign_file_system(path: Path) -> None:
    """
    Locks and syncs of network and FUSE file systems are not what this project relies on.

    Raises:
        HomeError: `path` is on one. Where the system does not tell (no /proc), nothing is refused.
    """
    kind = _file_system(path) if sys.platform == "linux" else None
    if kind is not None and (kind in _FOREIGN_FILE_SYSTEMS or kind.startswith("fuse")):
        raise HomeError(f"{path} is on a {kind} file system; the home needs a local one", home=str(path))


def _file_system(path: Path) -> str | None:
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return None
    return file_system_of(os.fsencode(path.resolve()), mounts)


def file_system_of(path: bytes, mounts: bytes) -> str | None:
    """
    The kind of file system that a resolved path is on, by the lines of a `mountinfo` (proc_pid_mountinfo(5)).

    The longest mount point that holds the path counts, of equal ones the last, which hides those before it. Names are
    bytes there, of whatever encoding, with blanks and backslashes as octal numbers.
    """
    longest, kind = -1, None
    for line in mounts.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        fields = left.split(b" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda found: bytes((int(found[1], 8),)), fields[4]).rstrip(b"/")
        if len(point) >= longest and (path == point or path.startswith(point + b"/")):
            longest, kind = len(point), right.split(b" ")[0].decode("ascii", "replace")
    return kind

"""
A copy of a home, made while programs record and the sequencer runs.

The databases are copied by SQLite's backup API, each as one state, through connections that only read: a plain copy would
tear them, and in a process that records it would drop SQLite's locks. The journal is copied first and the vault after it: the
vault is written before the entries that refer to it, so every entry in the copy finds its person in the copy.

Not copied: `reports.db`, which is made again from the journal; `spool/`, whose records come into the journal within a second
and can be opened with the private keys alone; and those keys, unless they are asked for. Without them a restored home
cannot sign, which is what it should be able to do least of all: `recover` gives it new ones.

The copy is itself a home, with one file more: `backup.json`, sizes and digests of all files and the tree that is in it. Where
that file stands, nothing is signed before `recover` has opened a successor log, because the log went on after the copy.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

import apsw

from openrouter_audit.core.notes import encode_base64
from openrouter_audit.errors import HomeError, JournalUnavailable
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.files import sync_directory, write_whole
from openrouter_audit.journal.former import former_folders
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import SEALING_FILE, SEALING_PUBLIC_FILE, SIGNING_FILES
from openrouter_audit.journal.sqlite import open_connection
from openrouter_audit.verification.source import ShownHead

FORMAT: Final = 1
_STEP_PAGES: Final = 1024
Progress = Callable[[int], None]
"""Called now and then with pages done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a copy holds."""

    path: Path
    origin: str
    tree_size: int
    root_hash: bytes
    files: int
    file_bytes: int
    with_keys: bool


@contextmanager
def partial_folder(target: Path, *, home: Home) -> Iterator[Path]:
    """
    A folder beside `target` to write into, which gets its name when everything in it is there and is removed otherwise.

    Raises:
        HomeError: There is something at `target`, or it would be inside of the home.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HomeError(f"{target} is there already; a backup is a new folder", home=str(home.path))
    if target.resolve().is_relative_to(home.path.resolve()):
        raise HomeError(f"{target} is inside of the home, and would be lost with it", home=str(home.path))
    partial = target.with_name(f"{target.name}.partial-{os.urandom(4).hex()}")
    partial.mkdir(mode=0o700, parents=True)
    try:
        yield partial
        for folder, _, _ in os.walk(partial, topdown=False):
            sync_directory(Path(folder))
        partial.rename(target)  # onto nothing, or onto an empty folder
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(target.parent)


def copy_home(home: Home, folder: Path, *, with_keys: bool, at_us: int, progress: Progress | None = None) -> Backup:
    """
    Copy a home into an empty folder.

    Raises:
        JournalUnavailable: A database cannot be read.
        OSError: A file cannot be read or written.
    """
    copy = Home(folder)
    # 1. The journal, then the vault.
    _copy_database(home.journal_path, copy.journal_path, progress)
    with JournalEvidence.open(copy.journal_path) as evidence:
        head = evidence.head()
    _copy_database(home.vault_path, copy.vault_path, progress)
    # 2. Logs before this one: they do not change any more.
    for former in former_folders(home.former_dir):
        target = copy.former_dir / former.name
        target.mkdir(mode=0o700, parents=True)
        copy.former_dir.chmod(0o700)
        for path in sorted(former.iterdir()):
            if path.name == "journal.db":
                _copy_database(path, target / path.name, progress)
            elif path.is_file() and not path.name.endswith(("-wal", "-shm")):
                _copy_file(path, target / path.name)
    # 3. Small files. The head is that of the copy; `recover` is told of a newer one.
    for name in (home.policy_path, home.config_path, home.unwatched_path):
        if name.exists():
            _copy_file(name, folder / name.name)
    for empty in (copy.spool_dir, copy.state_dir, copy.quarantine_dir):
        empty.mkdir(mode=0o700)
    for path in sorted(home.quarantine_dir.iterdir()) if home.quarantine_dir.is_dir() else ():
        _copy_file(path, copy.quarantine_dir / path.name)
    if with_keys:
        copy.keys_dir.mkdir(mode=0o700)
        for key in (*SIGNING_FILES, SEALING_FILE, SEALING_PUBLIC_FILE):
            _copy_file(home.keys_dir / key, copy.keys_dir / key)
    write_whole(copy.head_path, f"{head.origin} {head.tree_size} {encode_base64(head.root_hash)}\n".encode())
    # 4. What is in it.
    files = _digests(folder)
    write_whole(copy.backup_path, _manifest(head, files, with_keys=with_keys, at_us=at_us))
    return Backup(
        path=folder,
        origin=head.origin,
        tree_size=head.tree_size,
        root_hash=head.root_hash,
        files=len(files),
        file_bytes=sum(one["bytes"] for one in files.values()),
        with_keys=with_keys,
    )


def find_changes(home: Home) -> list[str]:
    """Names of files that are not as `backup.json` has them: of a copy that was torn on its way. Empty where all are."""
    try:
        manifest = json.loads(home.backup_path.read_bytes())
        said = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return [home.backup_path.name]
    found = _digests(home.path)
    return sorted(name for name, digest in said.items() if found.get(name) != digest)


def _manifest(head: ShownHead, files: dict[str, Any], *, with_keys: bool, at_us: int) -> bytes:
    manifest = {
        "format": FORMAT,
        "made_at_us": at_us,
        "origin": head.origin,
        "tree_size": head.tree_size,
        "root": encode_base64(head.root_hash),
        "with_keys": with_keys,
        "files": files,
    }
    return json.dumps(manifest, indent=1).encode() + b"\n"


def _digests(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below a folder, `backup.json` aside, by its name in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "backup.json":
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _copy_database(source: Path, target: Path, progress: Progress | None) -> None:
    """One state of a database, in one file: a reading transaction holds it while the pages are copied."""
    if not source.exists():
        raise JournalUnavailable(f"{source.name} does not exist")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        reading = open_connection(source, read_only=True)
        try:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            writing = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                with writing.backup("main", reading, "main") as copying:
                    while not copying.done:
                        copying.step(_STEP_PAGES)
                        if progress is not None:
                            progress(copying.page_count - copying.remaining)
                # Alone in its file: a copy on a medium that cannot be written is read like any other.
                writing.execute("PRAGMA journal_mode = DELETE").fetchall()
            finally:
                writing.close()
        finally:
            reading.close()
    except apsw.Error as error:
        raise JournalUnavailable(f"{source.name} cannot be copied: {error}") from error
    _sync(target)


def _copy_file(source: Path, target: Path) -> None:
    write_whole(target, source.read_bytes())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""
Everything a home does to its disk, in order: the tape that power cuts are made from.

While a `Recording` is on, three shims stand between the product and the system, and let every call through:

- the functions of `os` that make, write, sync, rename and remove files (spool, state files, keys, `head`, a published
  folder);
- `mmap.mmap`, for the counters of a writer: stores into mapped pages make no system call, so the pages are compared
  whenever anything else happens, and what changed is a write that nobody synced;
- a SQLite VFS of apsw, made the default one, so that `journal.db`, `vault.db` and `reports.db` with their write-ahead
  logs and rollback journals are opened through it. Their `-shm` is not on the tape: it is rebuilt after a restart.

An event stands on the tape once its call has returned, so a cut before it finds the call under way or not begun. Files are
known by number, not by name, as a disk knows them: `link` and `unlink` are changes of a directory, `write`, `truncate` and
`sync` of a file, `mark` is what somebody outside was told ("this call is acknowledged", "this commit returned").

Two syncs happen below the VFS, where it cannot see them, and are put on the tape by what SQLite's unix VFS does (watched
with strace): the first sync of a write-ahead log or rollback journal that it made also syncs the directory, and so does a
removal that asks for it.

Whether the shims saw everything is not a matter of trust: `check_complete` replays the tape and compares it with the
folder, byte for byte.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

import apsw

from openrouter_audit.journal import spool as spool_module

ROOT_DIRECTORY: Final = 0
_NUMBERS = itertools.count(1)
_SHM = "-shm"
_DIR_SYNCING = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class Link:
    """Names of one directory changed at once: None removes. A rename is one `Link` with two names."""

    directory: int
    names: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Of a file or a directory."""

    number: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Somebody outside was told something."""

    what: str
    value: Any = None


Event = Link | Write | Truncate | Sync | Mark


@dataclass(slots=True)
class Directory:
    """Names as they are now, with the numbers of what they stand for."""

    names: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Descriptor:
    number: int
    position: int
    appends: bool


class Recording:
    """
    A tape of what happens below one folder. One thread; one recording at a time.

    Args:
        root: The folder; what is in it when the recording begins is on the disk for good.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self.directories: dict[int, Directory] = {ROOT_DIRECTORY: Directory()}
        self.contents: dict[int, bytes] = {}
        """What files held when the recording began."""
        self.meanwhile: Callable[[], None] | None = None
        """Called after a database was written to: what other threads do while the sequencer is at work."""
        self._sizes: dict[int, int] = {}
        self._descriptors: dict[int, _Descriptor] = {}
        self._maps: dict[int, tuple[mmap.mmap, bytes]] = {}
        self._busy = False
        self._take_in(root, ROOT_DIRECTORY)
        self.at_start = {number: dict(directory.names) for number, directory in self.directories.items()}

    def _take_in(self, folder: Path, number: int) -> None:
        for path in folder.iterdir():
            if path.name.endswith(_SHM):
                continue
            inside = next(_NUMBERS)
            self.directories[number].names[path.name] = inside
            if path.is_dir():
                self.directories[inside] = Directory()
                self._take_in(path, inside)
            else:
                self.contents[inside] = path.read_bytes()
                self._sizes[inside] = len(self.contents[inside])

    def mark(self, what: str, value: Any = None) -> None:
        self._add(Mark(what, value))

    def _add(self, event: Event) -> None:
        self._look_at_maps()
        self.events.append(event)

    # Names ------------------------------------------------------------------------------------------------------

    def _place(self, path: str | os.PathLike[str]) -> tuple[int, str] | None:
        """Number of the directory and name in it, None where that is not below the root."""
        text = os.path.abspath(os.fspath(path))
        root = str(self.root)
        if text == root or not text.startswith(root + os.sep):
            return None
        *parents, name = text[len(root) + 1 :].split(os.sep)
        at = ROOT_DIRECTORY
        for parent in parents:
            at = self.directories[at].names[parent]
        return at, name

    def _number(self, path: str | os.PathLike[str]) -> int | None:
        if os.path.abspath(os.fspath(path)) == str(self.root):
            return ROOT_DIRECTORY
        try:
            place = self._place(path)
        except KeyError:
            return None
        return None if place is None else self.directories[place[0]].names.get(place[1])

    def _link(self, directory: int, *names: tuple[str, int | None]) -> None:
        known = self.directories[directory].names
        for name, number in names:
            if number is None:
                del known[name]
            else:
                known[name] = number
        self._add(Link(directory, names))

    def _made(self, path: str | os.PathLike[str], *, directory: bool = False) -> int | None:
        place = self._place(path)
        if place is None:
            return None
        number = next(_NUMBERS)
        if directory:
            self.directories[number] = Directory()
        else:
            self._sizes[number] = 0
        self._link(place[0], (place[1], number))
        return number

    def _removed(self, path: str | os.PathLike[str]) -> None:
        place = self._place(path)
        if place is not None:
            number = self.directories[place[0]].names[place[1]]
            self._link(place[0], (place[1], None))
            self._maps.pop(number, None)

    def _renamed(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        source, target = self._place(old), self._place(new)
        if source is not None and target is not None:
            number = self.directories[source[0]].names[source[1]]
            if source[0] == target[0]:
                self._link(source[0], (source[1], None), (target[1], number))
            else:  # two directories, each with a sync of its own: nothing keeps the two changes together
                self._link(target[0], (target[1], number))
                self._link(source[0], (source[1], None))

    # Files ------------------------------------------------------------------------------------------------------

    def _written(self, number: int, offset: int, data: bytes) -> None:
        if data:
            self._sizes[number] = max(self._sizes[number], offset + len(data))
            self._add(Write(number, offset, data))

    def _truncated(self, number: int, size: int) -> None:
        if size != self._sizes[number]:
            self._sizes[number] = size
            self._add(Truncate(number, size))

    def _opened(self, path: Any, flags: int, descriptor: int, *, existed: bool) -> None:
        self._descriptors.pop(descriptor, None)
        if not isinstance(path, (str, os.PathLike)):
            return
        number = self._number(path)
        if number is None and not existed:
            number = self._made(path)
        if number is None:
            return
        if flags & os.O_TRUNC and existed:
            self._truncated(number, 0)
        self._descriptors[descriptor] = _Descriptor(number, 0, bool(flags & os.O_APPEND))

    def _wrote(self, descriptor: int, data: bytes, at: int | None = None) -> None:
        known = self._descriptors.get(descriptor)
        if known is None:
            return
        offset = at if at is not None else self._sizes[known.number] if known.appends else known.position
        if at is None:
            known.position = offset + len(data)
        self._written(known.number, offset, data)

    def _synced(self, descriptor: int) -> None:
        known = self._descriptors.get(descriptor)
        if known is not None:
            self._add(Sync(known.number))

    def _mapped(self, descriptor: int, mapped: mmap.mmap) -> None:
        known = self._descriptors.get(descriptor)
        if known is not None:
            self._maps[known.number] = (mapped, mapped[:])

    def _look_at_maps(self) -> None:
        """What was stored into mapped pages since the last event."""
        for number, (mapped, seen) in list(self._maps.items()):
            if mapped.closed:
                del self._maps[number]
                continue
            now = mapped[:]
            if now != seen:
                self._maps[number] = (mapped, now)
                changed = [at for at in range(0, len(now), 512) if now[at : at + 512] != seen[at : at + 512]]
                self.events.extend(Write(number, at, now[at : at + 512]) for at in changed)

    def _map_synced(self, mapped: mmap.mmap) -> None:
        for number, (known, _) in list(self._maps.items()):
            if known is mapped:
                self._add(Sync(number))

    def _let_others_run(self) -> None:
        if self.meanwhile is not None and not self._busy:
            self._busy = True
            try:
                self.meanwhile()
            finally:
                self._busy = False

    # Shims ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on(self) -> Iterator[Recording]:
        """Record until the end of the block. Databases opened inside must be closed inside."""
        with contextlib.ExitStack() as stack:
            for name, shim in _os_shims(self).items():
                stack.enter_context(patch.object(os, name, shim))
            stack.enter_context(patch.object(spool_module, "_fdatasync", getattr(os, "fdatasync", os.fsync)))
            stack.enter_context(patch.object(mmap, "mmap", _map_shim(self)))
            vfs = _RecordedVfs(self)
            try:
                yield self
            finally:
                self._look_at_maps()
                vfs.unregister()
                self._maps.clear()
                self._descriptors.clear()

    def check_complete(self, files: dict[str, bytes]) -> None:
        """
        Compare the whole tape, replayed, with what is really there.

        Args:
            files: The replay: bytes by path relative to the root.
        """
        there = {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.endswith(_SHM)
        }
        assert sorted(there) == sorted(files)
        assert [name for name in there if there[name] != files[name]] == []


def _os_shims(tape: Recording) -> dict[str, Callable[..., Any]]:
    names = [
        "open",
        "write",
        "writev",
        "pwrite",
        "ftruncate",
        "fsync",
        "fdatasync",
        "rename",
        "replace",
        "unlink",
        "remove",
        "mkdir",
    ]
    real = {name: getattr(os, name) for name in names if hasattr(os, name)}

    def shim_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        existed = isinstance(path, (str, os.PathLike)) and os.path.lexists(path)
        descriptor: int = real["open"](path, flags, mode, dir_fd=dir_fd)
        tape._opened(path, flags, descriptor, existed=existed)
        return descriptor

    def shim_write(descriptor: int, data: Any) -> int:
        written: int = real["write"](descriptor, data)
        tape._wrote(descriptor, bytes(data)[:written])
        return written

    def shim_writev(descriptor: int, parts: Sequence[Any]) -> int:
        written: int = real["writev"](descriptor, parts)
        tape._wrote(descriptor, b"".join(map(bytes, parts))[:written])
        return written

    def shim_pwrite(descriptor: int, data: Any, offset: int) -> int:
        written: int = real["pwrite"](descriptor, data, offset)
        tape._wrote(descriptor, bytes(data)[:written], offset)
        return written

    def shim_ftruncate(descriptor: int, size: int) -> None:
        real["ftruncate"](descriptor, size)
        known = tape._descriptors.get(descriptor)
        if known is not None:
            tape._truncated(known.number, size)

    def shim_sync(name: str) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            real[name](descriptor)
            tape._synced(descriptor)

        return sync

    def shim_rename(name: str) -> Callable[..., None]:
        def rename(old: Any, new: Any, **options: Any) -> None:
            real[name](old, new, **options)
            tape._renamed(old, new)

        return rename

    def shim_unlink(name: str) -> Callable[..., None]:
        def unlink(path: Any, **options: Any) -> None:
            real[name](path, **options)
            tape._removed(path)

        return unlink

    def shim_mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        real["mkdir"](path, *arguments, **options)
        tape._made(path, directory=True)

    shims: dict[str, Callable[..., Any]] = {
        "open": shim_open,
        "write": shim_write,
        "writev": shim_writev,
        "pwrite": shim_pwrite,
        "ftruncate": shim_ftruncate,
        "fsync": shim_sync("fsync"),
        "fdatasync": shim_sync("fdatasync"),
        "rename": shim_rename("rename"),
        "replace": shim_rename("replace"),
        "unlink": shim_unlink("unlink"),
        "remove": shim_unlink("remove"),
        "mkdir": shim_mkdir,
    }
    return {name: shim for name, shim in shims.items() if name in real}  # macOS has no fdatasync


def _map_shim(tape: Recording) -> type[mmap.mmap]:
    class RecordedMap(mmap.mmap):
        def __new__(cls, descriptor: int, *arguments: Any, **options: Any) -> Self:
            mapped = super().__new__(cls, descriptor, *arguments, **options)
            tape._mapped(descriptor, mapped)
            return mapped

        def flush(self, *arguments: int) -> None:
            super().flush(*arguments)
            tape._map_synced(self)

    return RecordedMap


class _RecordedFile(apsw.VFSFile):
    def __init__(self, tape: Recording, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._tape = tape
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        existed = self._path is None or os.path.lexists(self._path)
        super().__init__("unix", name, flags)
        self._number = None if self._path is None else tape._number(self._path)
        if self._number is None and not existed:
            self._number = tape._made(self._path)
        # As SQLite's own: at the first sync of each handle that might have made the file, whoever did.
        might_have = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        self._syncs_directory = might_have and str(self._path).endswith(_DIR_SYNCING)

    def xLock(self, level: int) -> None:
        """The last connection to close asks for a write lock; on a file opened for reading that is no error to SQLite."""
        try:
            super().xLock(level)
        except apsw.IOError as error:
            raise apsw.BusyError from error  # the one refusal that apsw does not also raise in Python

    def xWrite(self, data: Any, offset: int) -> None:
        super().xWrite(data, offset)
        if self._number is not None:
            self._tape._written(self._number, offset, bytes(data))
            self._tape._let_others_run()

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        if self._number is not None:
            self._tape._truncated(self._number, size)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._number is not None:
            self._tape._add(Sync(self._number))
            if self._syncs_directory:
                self._syncs_directory = False
                self._tape._add(Sync(self._tape._number(os.path.dirname(self._path))))
            self._tape._let_others_run()


class _RecordedVfs(apsw.VFS):
    def __init__(self, tape: Recording) -> None:
        self._tape = tape
        super().__init__("power", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _RecordedFile:
        return _RecordedFile(self._tape, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._tape._removed(filename)
        if syncdir:
            self._tape._add(Sync(self._tape._number(os.path.dirname(filename))))

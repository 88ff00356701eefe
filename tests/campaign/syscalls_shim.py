"""
Faults by a shim in Python: on systems without strace, and for what strace cannot do.

It stands in the place of the functions of `os` and `fcntl` that the product calls, and of SQLite's file methods (as an
apsw VFS). Each call can fail in two ways, as with Sunlight's twin faults: *lost*, the call was not made, and *kept*, it was
made and reports an error none the less. A write can also be short in truth: the first half is in the file, and the caller
is told so, or the process dies there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from tests.campaign.syscalls_operations import IDENTITY_DIGITS, Ledger, nature_of

from openrouter_audit.journal import spool as spool_module

_WRITES = frozenset(("os.write", "os.writev", "os.pwrite", "vfs.write"))
_ERRORS = ("EIO", "ENOSPC", "EDQUOT")
_FUNCTIONS = {
    "os.open": (os, "open"),
    "os.write": (os, "write"),
    "os.writev": (os, "writev"),
    "os.pwrite": (os, "pwrite"),
    "os.fsync": (os, "fsync"),
    "os.fdatasync": (spool_module, "_fdatasync"),
    "os.rename": (os, "rename"),
    "os.replace": (os, "replace"),
    "os.unlink": (os, "unlink"),
    "os.ftruncate": (os, "ftruncate"),
    "fcntl.flock": (fcntl, "flock"),
}
_SQLITE = {"vfs.open": apsw.CantOpenError, "vfs.write": apsw.IOError, "vfs.truncate": apsw.IOError}


def faults_of(call: str) -> list[str]:
    faults = [f"{error} lost" for error in _ERRORS] + [f"{error} lost+" for error in _ERRORS]
    faults += ["EIO kept", "ENOSPC kept", "KILL lost", "KILL kept"]
    if call in _WRITES:
        faults += ["short", "short+", "KILL short"]
    return faults


class ShimTool:
    """Owned by one process: what is put in place stays until it ends."""

    def __init__(self, ledger: Ledger, *, fault: tuple[str, int, str] | None) -> None:
        self._ledger = ledger
        self._call, self._number, self._fault = fault or ("", 0, "")
        self._counts: dict[str, int] = {}
        self._on = False
        sys.unraisablehook = sys.excepthook = lambda *_: None  # apsw tells them what a finaliser met
        self._names: dict[int, str] = {}
        """Of the file that each descriptor was opened for: another file may get its inode."""
        for name, (module, attribute) in _FUNCTIONS.items():
            original = getattr(module, attribute)
            setattr(module, attribute, self._in_place_of(name, original))
        self._files = _FaultyFiles(self)  # in force as long as it lives
        apsw.Connection = _QuietlyClosed  # type: ignore[misc]

    def start(self) -> None:
        self._on = True

    def stop(self) -> None:
        self._on = False

    def sent(self, token: Any) -> None:
        self._ledger.note("event", "sent", token.name, 1)

    def _in_place_of(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            def do() -> Any:
                return original(*arguments, **options)

            def half() -> Any:
                if name == "os.writev":
                    data = b"".join(arguments[1])
                    return os_write(arguments[0], data[: len(data) // 2])
                return original(arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)], *arguments[2:])

            ok, file = False, ""
            try:
                named = arguments[0]
                file = self._names.get(named, "") if isinstance(named, int) else os.fspath(named)
                result = self.play(name, do, half, _os_error, file=file)
                ok = True
                if name == "os.open":
                    self._names[result] = file
                return result
            finally:
                if self._on and name in {"os.writev", "os.fdatasync"}:
                    kind = "write" if name == "os.writev" else "sync"
                    self._ledger.note("event", kind, Path(file).name[:IDENTITY_DIGITS], int(ok))

        return call

    def play(
        self,
        name: str,
        do: Callable[[], Any],
        half: Callable[[], Any] | None,
        error: Callable[[str, str], Exception],
        *,
        file: str,
    ) -> Any:
        """Make a call, or what becomes of it at the point of this run."""
        if not self._on:
            return do()
        number = self._counts[name] = self._counts.get(name, 0) + 1
        if not self._fault:
            self._ledger.note("call", name, f"{number} {nature_of(file)}")
        lasting = self._fault.endswith("+")
        if name != self._call or (number != self._number and not (lasting and number > self._number)):
            return do()
        if number == self._number:
            self._ledger.note("fault", name, number)
        kind, _, way = self._fault.removesuffix("+").partition(" ")
        if kind == "short":
            assert half is not None
            return half()
        if way == "kept":
            do()
        elif way == "short":
            assert half is not None
            with contextlib.suppress(apsw.FullError):
                half()
        if kind == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise error(name, kind)


os_write = os.write


class _QuietlyClosed(apsw.Connection):
    """
    At its end a connection check-points, or a reader asks for a lock it cannot have. What goes wrong then SQLite keeps to
    itself, but through a VFS in Python it becomes an exception.
    """

    def close(self, force: bool = False) -> None:
        with contextlib.suppress(apsw.Error):
            super().close(force)


def _os_error(_: str, kind: str) -> Exception:
    number = getattr(errno, kind)
    return OSError(number, os.strerror(number))


def _sqlite_error(name: str, kind: str) -> Exception:
    if name == "vfs.write" and kind != "EIO":
        return apsw.FullError(kind)
    return _SQLITE.get(name, apsw.IOError)(kind)


class _FaultyFiles(apsw.VFS):
    """SQLite's unix files, asked through the shim."""

    def __init__(self, shim: ShimTool) -> None:
        self._shim = shim
        super().__init__("faulty", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        file = name if isinstance(name, str) else name.filename()
        return self._shim.play(
            "vfs.open", lambda: _FaultyFile(self._shim, name, file, flags), None, _sqlite_error, file=file
        )

    def xDelete(self, name: str, sync: bool) -> None:
        delete = super().xDelete
        self._shim.play("vfs.delete", lambda: delete(name, sync), None, _sqlite_error, file=name)


class _FaultyFile(apsw.VFSFile):
    def __init__(self, shim: ShimTool, name: Any, file: str, flags: list[int]) -> None:
        self._shim, self._file = shim, file
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        write = super().xWrite

        def half() -> None:
            """SQLite's own way with a short write: the rest did not fit, the file is full."""
            write(data[: len(data) // 2], offset)
            raise apsw.FullError("short")

        self._shim.play("vfs.write", lambda: write(data, offset), half, _sqlite_error, file=self._file)

    def xSync(self, flags: int) -> None:
        sync = super().xSync
        self._shim.play("vfs.sync", lambda: sync(flags), None, _sqlite_error, file=self._file)

    def xTruncate(self, size: int) -> None:
        truncate = super().xTruncate
        self._shim.play("vfs.truncate", lambda: truncate(size), None, _sqlite_error, file=self._file)

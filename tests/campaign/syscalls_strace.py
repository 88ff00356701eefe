"""
Faults by the kernel's own hand: `strace` makes the Nth call of a kind fail, or kills the process as it enters it.

strace is attached to a process that is ready for its operation and waits at a gate, so the counts begin with the first
call of the operation, and Python's start is not among them. A dry run lists the calls, with the paths of their
descriptors; those of files of the home are the points of the sweep.

What strace cannot do is a true short write: `retval=` makes the kernel say that bytes were written which never were, and no
program survives a kernel that lies. Short writes are left to the shim, which really writes the half (syscalls_shim).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = [
    "open",
    "openat",
    "write",
    "writev",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "flock",
    "ftruncate",
]
ERRORS = ("EIO", "ENOSPC", "EDQUOT")
INTERRUPTIBLE = frozenset(("open", "openat", "write", "writev", "pwrite64", "fdatasync", "fsync", "flock", "ftruncate"))
_TRACED = ",".join(f"?{name}" for name in CALLS)
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
_RESULT = re.compile(r"\) += (-?\d+|\?)")
_PATHS = re.compile(r'<([^<>]*)>|"([^"]*)"')
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1


def faults_of(call: str) -> list[str]:
    """Once, then from there on: a disk that stays full."""
    errors = [*ERRORS, *(["EINTR"] if call in INTERRUPTIBLE else [])]
    return [*errors, *(f"{error}+" for error in ERRORS), "KILL"]


@dataclass(frozen=True, slots=True)
class Traced:
    """A call as strace wrote it down."""

    name: str
    number: int
    """Among the calls of this name, counted from 1."""
    paths: tuple[str, ...]
    text: str
    failed: bool
    injected: bool


def read_trace(trace: Path) -> list[Traced]:
    calls: list[Traced] = []
    counts: dict[str, int] = {}
    for line in trace.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None or match[1] not in CALLS:
            continue
        name, rest = match[1], match[2]
        counts[name] = counts.get(name, 0) + 1
        result = _RESULT.search(rest)
        paths = tuple(a or b for a, b in _PATHS.findall(rest))
        failed = result is None or result[1] == "?" or int(result[1]) < 0
        calls.append(Traced(name, counts[name], paths, rest, failed, "(INJECTED)" in rest))
    return calls


class StraceTool:
    """In the traced process: tells the trace which segment a call relied on when it was sent."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        if sys.platform == "linux":  # where only ancestors may trace, strace is a sibling
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_long(_ANYBODY), 0, 0, 0)

    def sent(self, token: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self._null, f"sent {token.name}\n".encode())


def events(calls: list[Traced]) -> list[tuple[str, str, bool]]:
    """What happened to segments: (`write` | `sync` | `sent`, segment, whether it succeeded), in order."""
    found = []
    for call in calls:
        if call.name == "write" and "sent " in call.text:
            found.append(("sent", call.text.split('"sent ', 1)[1][:32], True))
        elif call.name in {"writev", "fdatasync", "fsync"} and "/spool/" in call.paths[0]:
            if call.failed and "EINTR" in call.text:  # Python makes such a call again
                continue
            kind = "write" if call.name == "writev" else "sync"
            found.append((kind, Path(call.paths[0]).name[:32], not call.failed))
    return found


def attach(pid: int, trace: Path, *, fault: tuple[str, int, str] | None) -> subprocess.Popen[bytes]:
    """Trace a process from now on; returns once strace has it."""
    command = ["strace", "-f", "-y", "-s", "48", "-o", str(trace), "-e", f"trace={_TRACED}", "-e", "signal=none"]
    if fault is not None:
        name, number, kind = fault
        what = "signal=KILL" if kind == "KILL" else f"error={kind.removesuffix('+')}"
        command += ["-e", f"inject={name}:{what}:when={number}{'+' if kind.endswith('+') else ''}"]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert tracer.stderr is not None
    said = b""
    while b"attached" not in said:
        line = tracer.stderr.readline()
        said += line
        if not line:
            raise RuntimeError(f"strace: {said.decode(errors='replace')}")
    return tracer

"""
What Python runs first in every process under `openrouter-audit exec`: recording begins when a client is imported.

`exec` puts the folder of this file in front of PYTHONPATH, where Python looks for a module of this name at its start. It
waits for the import of an HTTP library and costs nothing until then; a process that never imports one pays for a look at
each import. A `sitecustomize` of the application's own comes afterwards, as if this one were not there.

A fault here never stops a program: it is said in one line on stderr, and the program goes on without a record. Any Python
3 must be able to read this file, for any may be started under `exec`.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

TYPE_CHECKING = False  # `typing` is dear at the start
if TYPE_CHECKING:
    from typing import Any

LIBRARIES = ("aiohttp", "httpx", "httpx2", "requests", "websockets.client")
"""Whichever is imported first, `install` sees to all of them."""


class _Finder:
    """
    Stands before the finders of modules, and has whoever loads a library begin recording when it is loaded.

    Nothing of ours is imported while a module is looked for: Python holds a lock then which other threads wait for in the
    middle of imports that ours may need.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in LIBRARIES and self in sys.meta_path:
            for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
                look: Any = getattr(finder, "find_spec", None)
                spec = None if look is None else look(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader)
                    return spec
        return None


class _Loader:
    """In the place of a library's loader until it loads."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _record()


_lock = RLock()
_begun = False


def _record() -> None:
    """A library is there: begin or, where recording has begun while this one was half loaded, take it in."""
    global _begun  # noqa: PLW0603 - a process begins once
    try:
        with _lock:
            import openrouter_audit
            from openrouter_audit import audit_log
            from openrouter_audit.capture import transports

            if not _begun:
                _begun = True
                openrouter_audit.install()
            elif (audit := audit_log.installed()) is not None:
                transports.instrument(audit, audit.hosts)
    except Exception as error:
        _say(error)


def _say(error: Exception) -> None:
    try:
        sys.stderr.write("openrouter-audit: process %d is not recorded: %s\n" % (os.getpid(), error))  # noqa: UP031
    except Exception:
        pass  # there is nobody to tell


def _begin() -> None:
    sys.meta_path.insert(0, _Finder())
    if any(name in sys.modules for name in LIBRARIES):
        _record()


def _load_own() -> None:
    """The `sitecustomize` that Python would have found without us; what it raises is Python's to say."""
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is dear at the start
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]  # noqa: PTH100
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours


if os.environ.get("OPENROUTER_AUDIT_AUTO") == "1":
    try:
        _begin()
    except Exception as fault:
        _say(fault)
_load_own()

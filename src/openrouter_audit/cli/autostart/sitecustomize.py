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

LIBRARIES = ("aiohttp", "httpx", "httpx2", "requests")
"""Whichever is imported first, `install` sees to all of them."""


class _Waiting:
    """Stands among the finders of modules until one of the libraries is asked for."""

    def __init__(self) -> None:
        self._installing = RLock()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        if name not in LIBRARIES:
            return None
        with self._installing:  # a thread that imports another one meanwhile must find it watched as well
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _install()
        # Those who ask are halfway through a list that has changed under them: its new first one is asked here.
        import importlib.util

        return importlib.util.find_spec(name)


def _install() -> None:
    try:
        import openrouter_audit

        openrouter_audit.install()
    except Exception as error:
        _say(error)


def _say(error: Exception) -> None:
    try:
        sys.stderr.write("openrouter-audit: process %d is not recorded: %s\n" % (os.getpid(), error))  # noqa: UP031
    except Exception:
        pass  # there is nobody to tell


def _begin() -> None:
    if any(name in sys.modules for name in LIBRARIES):
        _install()
    else:
        sys.meta_path.insert(0, _Waiting())


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

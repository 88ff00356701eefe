"""`openrouter-audit emulator`: an OpenRouter on loopback, with books."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def emulator(
    *,
    port: int = 0,
    seed: int | None = None,
    books: Annotated[Path | None, Parameter(help="Append a JSON line for every call to this file.")] = None,
) -> None:
    """
    Serve an emulated OpenRouter on 127.0.0.1 until interrupted.

    The first line on stdout is {"url": ...}: give it to an SDK as its base URL, with any key. Needs the extra `testing`.

    Parameters
    ----------
    port:
        0 takes any that is free.
    seed:
        Equal requests in equal order give equal bytes under one seed. Without one, no two runs give out the same
        generation id.
    """
    from openrouter_audit.testing.emulator import serve

    serve(port=port, seed=seed, books=books)

"""`openrouter-audit exec`: run a command, and have every Python process it starts recorded, without a line of code (C23)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openrouter_audit.cli.common import HomeOption, hint
from openrouter_audit.config import load_config
from openrouter_audit.errors import ConfigError
from openrouter_audit.journal.home import Home

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
"""Both as shells, `env` and `nohup` have them."""
AUTOSTART = Path(__file__).parent / "autostart"
"""Holds `sitecustomize.py` and nothing else: it stands on the path of every process."""
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFZ", "SIGXFSZ")


def exec_(
    *command: Annotated[str, Parameter(help="A program and its arguments, behind --.")], home: HomeOption = None
) -> int:
    """
    Run a command, and record every call to OpenRouter that Python processes under it make.

    The command takes the place of this one: its exit code, signals and streams are its own. A home that cannot be used,
    or settings that cannot be meant, are said before it starts.
    """
    if not command:
        raise ConfigError("exec needs a command: openrouter-audit exec -- python app.py")
    located = Home.locate(home)
    load_config(located.config_path)
    located.ensure()
    if (option := deaf(command)) is not None:
        hint(f"{command[0]} {option} looks for no sitecustomize: this process will not be recorded")
    for name in _IGNORED_BY_PYTHON:  # this Python ignores them, and what is ignored stays so in the next program
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment(located))  # noqa: S606 - the command given is what it is for
    except FileNotFoundError:
        hint(f"{command[0]}: not found")
        return EXIT_NOT_FOUND
    except OSError as error:
        hint(f"{command[0]}: {error.strerror}")
        return EXIT_NOT_EXECUTABLE


def environment(home: Home) -> dict[str, str]:
    """That of the command: ours, with our folder first on Python's path."""
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "OPENROUTER_AUDIT_AUTO": "1",
        "OPENROUTER_AUDIT_HOME": str(home.path),
        "PYTHONPATH": f"{AUTOSTART}{os.pathsep}{path}" if path else str(AUTOSTART),
    }


def deaf(command: tuple[str, ...]) -> str | None:
    """The option by which a Python takes no notice of PYTHONPATH or of `sitecustomize`, where the command has one."""
    if not Path(command[0]).name.startswith(("python", "pypy")):
        return None
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-") or word == "-":
            return None  # the script: the rest is its own
        for place, letter in enumerate(word[1:], 1):
            if letter in "EIS":
                return f"-{letter}"
            if letter in "cm":
                return None
            if letter in "XW":
                if place == len(word) - 1:
                    next(words, None)
                break
            if letter == "-":
                break
    return None

"""
The tests that need an environment of their own, one session each: `dev.py clients [GROUP…]` runs them.

Some clients exclude each other (litellm wants openai 2, langchain-openrouter wants openrouter 0.x), so those that fit
together share a group, and each group has its requirements in `requirements/clients`, its tests in `tests/clients`, and
its environment in `.nox`. An environment is made once, and again when its requirements have changed. A group that cannot
be installed has failed.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements" / "clients"
GROUPS = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
STAMP = ".set-up"

nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True


def wanted(group: str) -> str:
    """What an environment must be made of to be used again."""
    parts = (REQUIREMENTS / f"{group}.txt").read_bytes(), (ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode()
    return hashlib.sha256(b"".join(parts)).hexdigest()


def is_set_up(group: str) -> bool:
    stamp = ROOT / ".nox" / group / STAMP
    return stamp.exists() and stamp.read_text() == wanted(group)


def set_up(session: nox.Session, group: str) -> None:
    """With uv, else with pip, which is slower and knows of indexes that uv does not know."""
    requirements = str(REQUIREMENTS / f"{group}.txt")
    project = ("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    uv = shutil.which("uv")
    if uv is not None:
        where = ("--quiet", "--python", f"{session.bin}/python")
        try:
            session.run(uv, "pip", "sync", *where, "--require-hashes", requirements, external=True)
            session.run(uv, "pip", "install", *where, *project, external=True)
            return
        except CommandFailed:
            session.warn("uv cannot install it; pip may")
    session.install("--quiet", "--require-hashes", "--requirement", requirements)
    session.install("--quiet", *project)


def add_session(group: str) -> None:
    @nox.session(name=group, reuse_venv=is_set_up(group))
    def run(session: nox.Session) -> None:
        stamp = Path(session.virtualenv.location) / STAMP
        if not is_set_up(group):
            set_up(session, group)
            stamp.write_text(wanted(group))
        # Frameworks keep clients that nobody can close: their sockets are open at the end, with us and without.
        quiet = ("-W", "ignore:unclosed:ResourceWarning")
        session.run("python", "-m", "pytest", *quiet, f"tests/clients/{group}", *session.posargs)


for name in GROUPS:
    add_session(name)

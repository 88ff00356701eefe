#!/usr/bin/env python3
"""
The project's one door: sets up a development environment by itself, then runs what is asked.

    python3 dev.py demo [--once] [--home DIR]    the main job, end to end, against an emulated OpenRouter
    python3 dev.py test [--long] [ARGUMENTS]     checks, then all tests; further arguments go to pytest
    python3 dev.py clients [GROUP…]              only the tests of clients that need environments of their own
    python3 dev.py check                         ruff, format, mypy strict, import-linter
    python3 dev.py exec -- COMMAND…              any command inside the environment (openai and openrouter SDKs are in it)

Needs Python 3.11+ with pip, nothing else, root or not. Standard library only. What it makes is in `.venv/`, `.nox/`
and `.tools/`; delete them to start afresh.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements" / "dev.txt"
STAMP = VENV / ".set-up"
TOOLS = ROOT / ".tools" / "uv"
UV_RANGE = "uv>=0.13,<0.14"


def run(*command: str | Path, **environment: str) -> None:
    """Run a command and stop with its exit code when it fails."""
    code = subprocess.call([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment})
    if code:
        raise SystemExit(code)


def find_uv() -> Path | None:
    """
    `uv` from the PATH, else from PyPI into `.tools/`.

    `pip install --target` works where the system's Python is externally managed and without the venv module. None where
    neither is to be had: plain pip does the same, more slowly.
    """
    local = TOOLS / "bin" / "uv"
    on_path = shutil.which("uv")
    if on_path is not None:
        return Path(on_path)
    if not local.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
        if subprocess.call([*pip, str(TOOLS), UV_RANGE], cwd=ROOT):
            return None
    return local if local.exists() else None


def set_up() -> None:
    """Make the environment, unless it is already as the requirements want it."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + (ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode())
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted.hexdigest():
        return
    print("setting up .venv (once) …", file=sys.stderr, flush=True)
    uv = find_uv()
    if uv is None or not with_uv(uv):
        with_pip()
    STAMP.write_text(wanted.hexdigest())


def with_uv(uv: Path) -> bool:
    """False where uv cannot reach an index that pip may know of: it does not read pip's configuration."""
    quiet = {"UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": str(VENV)}
    run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV, **quiet)
    sync = [str(uv), "pip", "sync", "--quiet", "--require-hashes", "--python", str(PYTHON), str(REQUIREMENTS)]
    if subprocess.call(sync, cwd=ROOT, env={**os.environ, **quiet}):
        return False
    install = ("pip", "install", "--quiet", "--python", PYTHON, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    run(uv, *install, **quiet)
    return True


def with_pip() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", VENV)
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "--requirement", REQUIREMENTS)
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def check() -> None:
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "mypy")
    run(VENV / "bin" / "lint-imports", "--no-cache")


def test(arguments: list[str], *, long: bool) -> None:
    """
    All of `check`, pytest on every core, the groups of clients, and the table of what was done to it.

    `--long` adds the long campaigns. Who gives arguments asks for certain tests: then there are no groups.
    """
    check()
    shutil.rmtree(ROOT / "build" / "reliability", ignore_errors=True)
    selection = [] if long else ["-m", "not long"]
    spread = [] if any(part.startswith(("-n", "-x", "--pdb")) for part in arguments) else ["-n", "auto"]
    code = subprocess.call([str(PYTHON), "-m", "pytest", *selection, *spread, *arguments], cwd=ROOT)
    if not arguments:
        code = clients([]) or code
    run(PYTHON, "-m", "tests.campaign.results", *(["--write"] if long and not code and not arguments else []))
    raise SystemExit(code)


def clients(groups: list[str]) -> int:
    """Exit code of the groups named, or of all: each in its environment, see noxfile.py."""
    chosen = ["--session", *groups] if groups else []
    path = f"{os.environ.get('PATH', '')}{os.pathsep}{TOOLS / 'bin'}"
    return subprocess.call([str(PYTHON), "-m", "nox", *chosen], cwd=ROOT, env={**os.environ, "PATH": path})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the main job, end to end, without a key")
    demo.add_argument("--once", action="store_true", help="end by itself; exit 0 only if everything held")
    demo.add_argument("--home", metavar="DIR", help="where the recorded home is kept (default: a new folder)")
    tests = commands.add_parser("test", help="checks and all tests")
    tests.add_argument("--long", action="store_true", help="with the campaigns that take long")
    of_clients = commands.add_parser("clients", help="tests of clients in environments of their own")
    of_clients.add_argument("groups", nargs="*", metavar="GROUP", help="a file of requirements/clients; default all")
    commands.add_parser("check", help="ruff, format, mypy, import-linter")
    execute = commands.add_parser("exec", help="a command inside the environment")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    set_up()
    if options.command == "demo":
        chosen = ["--once"] if options.once else []
        chosen += ["--home", options.home] if options.home else []
        run(PYTHON, "-m", "demo", *chosen)
    elif options.command == "test":
        test(rest, long=options.long)
    elif options.command == "clients":
        raise SystemExit(clients(options.groups))
    elif options.command == "check":
        check()
    else:
        words = options.words[1:] if options.words[:1] == ["--"] else options.words
        if not words:
            parser.error("exec needs a command")
        path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        found = shutil.which(words[0], path=path)
        if found is None:
            parser.error(f"{words[0]} is not in the environment")
        os.execve(found, words, {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV)})


if __name__ == "__main__":
    main()

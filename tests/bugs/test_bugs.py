"""
Ten faults as people make them, each put into a copy of the sources: the tests named with it must turn red.

A test that cannot fail holds nothing. Each `*.patch` here is a change somebody might make in good faith; its first lines say
in words what is broken, `red:` names the tests that notice, `hangs:` that they may
also do so by not ending within so many seconds. A patch that no longer applies is red as well: it has to
follow the code it breaks.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUGS = sorted(Path(__file__).parent.glob("*.patch"))
PATIENCE_S = 240


def told(bug, word):
    return [line.partition(":")[2].strip() for line in bug.read_text().splitlines() if line.startswith(f"{word}:")]


def copy_of_the_sources(to):
    for folder in ("src", "tests", "examples", "demo"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__", "bugs"))
    shutil.copy(ROOT / "pyproject.toml", to)


def run(copy, tests, *, patience_s=PATIENCE_S):
    """Exit code of pytest on the copy; None where it hangs, as a deadlock does."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=patience_s
        )
    except subprocess.TimeoutExpired:
        return None, "it hangs"
    return done.returncode, done.stdout


@pytest.mark.skipif(shutil.which("git") is None and "CI" not in os.environ, reason="git applies the patches")
@pytest.mark.parametrize("bug", BUGS, ids=[bug.stem for bug in BUGS])
def test_a_bug_turns_the_tests_red(bug, tmp_path):
    copy_of_the_sources(tmp_path)
    applied = subprocess.run(
        ["git", "apply", "--unsafe-paths", f"--directory={tmp_path}", str(bug)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == applied.returncode, applied.stderr
    hangs = [int(seconds) for seconds in told(bug, "hangs")]
    code, output = run(tmp_path, told(bug, "red"), patience_s=max(hangs, default=PATIENCE_S))
    assert code == 1 or (code is None and hangs), output


def test_the_named_tests_are_green_without_any_bug(tmp_path):
    copy_of_the_sources(tmp_path)
    named = sorted({test for bug in BUGS for test in told(bug, "red")})
    assert 10 <= len(BUGS)
    code, output = run(tmp_path, named)
    assert 0 == code, output

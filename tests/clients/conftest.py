"""
Clients and servers that do not fit into one environment: each folder runs in the environment of its name, see noxfile.py.

This file is the one place that keeps the other folders, and in the development environment all of them, from being
collected: what they import is not there.
"""

import sys
from pathlib import Path

import pytest
from tests.clients.recorded import watched_process

GROUPS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/test_*.py"))
collect_ignore = sorted({group for group in GROUPS if group != Path(sys.prefix).name})


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Every call of this process is recorded, into a home of the test's own, beside an emulator of its own."""
    monkeypatch.setenv("OPENROUTER_AUDIT_ENRICH_SCOPE", "off")  # the log is whole when the calls are
    with watched_process(tmp_path / "home") as watched:
        yield watched

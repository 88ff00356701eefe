"""One server, and one home for each module and process: what all cases wrote is drained and proved once, at the end."""

import gc

import pytest
from tests.endings.seen import Ledger
from tests.endings.server import ScriptedServer

from openrouter_audit import AuditLog


@pytest.fixture(scope="module")
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    audit = AuditLog.open(tmp_path_factory.mktemp("endings") / "home", sequencer=False, enrich=False)
    ledger = Ledger(audit)
    yield ledger
    ledger.prove()
    audit.close()


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Cases collect garbage to see what it says; what was there before them need not be gone over each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

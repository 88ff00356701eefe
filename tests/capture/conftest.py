"""What the tests of this room share: no hook and no counted fault outlives a test."""

import pytest
from tests.capture.wire import RecordingServer

from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import uninstrument


@pytest.fixture(autouse=True)
def clean():
    faults.counts.clear()
    yield
    uninstrument()


@pytest.fixture
def server():
    with RecordingServer() as running:
        yield running

"""A running emulator for each test that asks for one."""

import pytest
from tests.testing.asking import Asker

from openrouter_audit.testing import FakeOpenRouter


@pytest.fixture
def fake():
    with FakeOpenRouter(seed=7) as running:
        yield running


@pytest.fixture
def asker(fake):
    return Asker(fake)

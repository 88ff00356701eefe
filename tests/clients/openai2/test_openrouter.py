"""openrouter 0.x, as langchain-openrouter wants it."""

from __future__ import annotations

import pytest
from tests.clients.openrouter_forms import FORMS, check


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_call_is_recorded_once(watched, form):
    check(watched, form, version="openrouter/0")

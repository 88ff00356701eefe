"""openrouter 1, on legacy httpx beside clients of httpx2."""

from __future__ import annotations

import pytest
from tests.clients.openrouter_forms import FORMS, check


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_call_is_recorded_once(watched, form):
    check(watched, form, version="openrouter/1")

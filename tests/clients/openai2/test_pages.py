"""The pages of docs/how-to/clients, those whose clients are in this environment: each says what is in the log."""

from __future__ import annotations

import pytest
from tests.clients.pages import check_example, check_refusal, pages_of

PAGES = pages_of("openai2")


@pytest.mark.parametrize("name", PAGES)
def test_the_example_of_a_page_is_in_the_log_as_it_says(tmp_path, name):
    check_example(name, tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_a_request_of_the_example_that_fails_is_in_the_log_as_it_says(tmp_path, name):
    check_refusal(name, tmp_path)

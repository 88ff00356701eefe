"""The page on statuses says what the suite has shown, and leaves nothing out."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from tests.docs.pages import page, section
from tests.endings.answers import SHAPES, STATUSES
from tests.endings.endings import endings
from tests.endings.test_callers import CASES
from tests.endings.test_processes import WAYS

from openrouter_audit.core.entries import Status

PAGE = page("docs/reference/statuses.md")
WORDS = {name: section(PAGE, name) for name in ("open", *get_args(Status))}


def test_every_status_has_its_section_with_something_to_do():
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert set(headings) == set(WORDS)
    assert all("**Do:**" in text for text in WORDS.values())


def test_every_http_status_of_the_suite_is_in_the_table_of_errors():
    """
    499 is said to clients that went away: nobody is left to see it.
    """
    named = {int(number) for number in re.findall(r"\b[45]\d\d\b", WORDS["error"])}
    assert set(STATUSES) - {499} <= named


def test_every_way_in_which_a_call_of_the_suite_failed_stands_on_the_page():
    """
    Codes and types of the table that are no OpenRouter's: each is said under the status that it came with.
    """
    for ending in endings():
        facts = ending.answered.facts
        status, source = facts.get("status"), facts.get("error_source")
        if source == "client" or status == "timeout":
            assert f"`{facts['error_code']}`" in WORDS[status], str(ending)
        if facts.get("error_type") in {"connect", "tls", "truncated", "decode"}:
            assert f"`{facts['error_type']}`" in WORDS[status], str(ending)


@pytest.mark.parametrize(
    "word, status",
    [("break", "abandoned"), ("close", "abandoned"), ("KeyboardInterrupt", "cancelled"), ("SystemExit", "cancelled")],
)
def test_what_a_caller_does_stands_where_the_suite_puts_it(word, status):
    found = {
        case.facts(SHAPES[shape])["status"] for case, shape in CASES if case.name in {word, f"with-left-by-{word}"}
    }
    assert {status} == found
    assert word in WORDS[status]


def test_what_ends_processes_stands_where_the_suite_puts_it():
    words = {
        "exit": "os._exit",
        "term": "SIGTERM",
        "kill": "SIGKILL",
        "interrupt": "KeyboardInterrupt",
        "handled-term": "SIGTERM",
    }
    for way, (_, status, _) in WAYS.items():
        assert words[way] in WORDS[status]

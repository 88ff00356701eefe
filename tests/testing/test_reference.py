"""The page on the emulator names all it can be asked for."""

import re

from tests.docs.pages import page

from openrouter_audit.testing.emulator.calls import BASE, INTERFACES
from openrouter_audit.testing.emulator.switches import ENDS, RECORDS, SWITCHES

PAGE = page("docs/reference/emulator.md")


def first_cells(header):
    """The names in the first column of the table with that header."""
    table = PAGE.split(header, 1)[1].split("\n\n", 1)[0]
    return {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}


def test_switches_and_ends_are_those_of_the_page():
    assert set(SWITCHES) == first_cells("| switch |")
    assert set(ENDS) == first_cells("| `end` | stream |")
    (records,) = re.findall(r"^\| `record` \| (.*?) \|", PAGE, re.MULTILINE)
    assert list(RECORDS) == re.findall(r"`(\w+)`", records)


def test_interfaces_are_on_the_page():
    assert set() == {path for path in INTERFACES if f"{path.removeprefix(BASE)}`" not in PAGE}

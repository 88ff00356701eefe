"""What is shown."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_audit.reports.render import csv_cell, csv_lines, json_text, print_table, printable


@pytest.mark.parametrize("text", ["=1+1", "+SUM(A1)", "-2+3", "@x", "\tx", "\r=x"])
def test_a_spreadsheet_runs_nothing_of_ours(text):
    """A user may call himself whatever he likes."""
    assert f"'{text}" == csv_cell(text)


@pytest.mark.parametrize("text", ["-1.5", "1e-7", "-1e-7", "0.0076509169000000005", "ann=bob", ""])
def test_numbers_and_plain_text_stay_as_they_are(text):
    """A negative amount is no formula."""
    assert text == csv_cell(text)


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.none() | st.booleans() | st.integers()}), max_size=5))
def test_csv_is_read_back_as_written(rows):
    """Quotes, line ends and commas included."""
    text = "".join(csv_lines(("a", "b"), rows))
    back = list(csv.reader(io.StringIO(text, newline="")))

    assert [["a", "b"], *([csv_cell(row["a"]), csv_cell(row["b"])] for row in rows)] == back


def test_json_keeps_the_order_of_keys_and_the_text_of_money():
    """Nothing becomes a float on its way."""
    assert '{"b":"1e-7","a":null,"c":true}' == json_text({"b": "1e-7", "a": None, "c": True})


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_table_shows_every_value_in_full_however_narrow(width):
    """Columns are folded or become lines; nothing is replaced by dots."""
    columns = ("day", "model_used", "requests", "cost", "unknown_cost_requests")
    row = dict(zip(columns, ("2026-11-23", "m/" + "x" * 30, 12, "0.0076509169000000005", 0), strict=True))
    out = io.StringIO()
    print_table(columns, [row], file=out, width=width)
    letters = "".join(out.getvalue().split())

    assert "…" not in letters
    assert "\x1b" not in letters
    assert letters.count("x") >= 30
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_a_name_cannot_steer_the_terminal():
    """Escape sequences and markup of a user id are shown, not obeyed."""
    out = io.StringIO()
    print_table(("user_id",), [{"user_id": "[red]\x1b[2J"}], file=out, width=80)

    assert "[red]\N{REPLACEMENT CHARACTER}[2J" in out.getvalue()
    assert "-" == printable(None)

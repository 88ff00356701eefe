r"""
Answers as JSON, CSV, or a table for people.

CSV is RFC 4180 with `\n`: a null is an empty cell, flags are `true` and `false`, tags are JSON. A spreadsheet runs cells
that begin with `=`, `+`, `-`, `@`, a tab or a return as formulas, and names of users and sessions come from outside: such
a cell gets a single quote in front, unless it is a number.

Tables use colours on a terminal only. On a narrow one columns are folded, never cut: what cannot be read in full can
still be copied in full.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def json_text(value: object) -> str:
    """One line of JSON, keys in the order given."""
    return msgspec.json.encode(value).decode()


def csv_cell(value: object) -> str:
    """A value as a spreadsheet may safely see it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return msgspec.json.encode(dict(value), order="sorted").decode()
    text = str(value)
    if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The header and a record for each row, each with its line end."""
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line([csv_cell(row[name]) for name in columns])


def _csv_line(cells: Sequence[str]) -> str:
    # The module quotes what its own line end contains: with "\r\n" a lone return inside a cell is quoted as well.
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def print_table(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    title: str | None = None,
    file: IO[str] | None = None,
    width: int | None = None,
) -> None:
    """A table for people; numbers stand on the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = list(rows)
    console = Console(file=file, width=width, highlight=False, soft_wrap=False, emoji=False)
    if not console.is_terminal and width is None:
        console.width = 10_000  # a pipe has no margin; whoever reads it cuts lines as they like
    if console.width < _width_of(columns, shown):
        _print_records(console, columns, shown, title)
        return
    if title is not None:
        console.print(title, markup=False, soft_wrap=True)
    table = Table(pad_edge=False, box=_box())
    for name in columns:
        numeric = all(_is_numeric(row[name]) for row in shown) and bool(shown)
        table.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in shown:
        table.add_row(*(escape(printable(row[name])) for name in columns))
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")


def _width_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> int:
    """Characters that the longest values need beside each other, with two of padding and one between."""
    return sum(max([len(name), *(len(printable(row[name])) for row in rows)]) + 3 for name in columns)


def _print_records(console: Any, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], title: str | None) -> None:
    """The same for a terminal too narrow for columns: a line for each value."""
    from rich.text import Text

    if title is not None:
        console.print(Text(title))
    for row in rows:
        console.print()
        for name in columns:
            console.print(Text(f"{name}: {printable(row[name])}"))


def _box() -> Any:
    from rich.box import SIMPLE_HEAD

    return SIMPLE_HEAD


def _is_numeric(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or isinstance(value, int) or (isinstance(value, str) and bool(_NUMBER.fullmatch(value)))


def printable(value: object) -> str:
    """A value without control characters: what was recorded must not steer a terminal."""
    if value is None:
        return "-"
    text = csv_cell(value) if isinstance(value, (bool, Mapping)) else str(value)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

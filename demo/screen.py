"""What the demo prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


class Screen:
    """A terminal, or a log file: colours and spinners only on the former."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, width=None)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.rule(Text(text, style="bold"), align="left")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def check(self, held: bool, claim: str) -> bool:
        mark = Text("  ok   " if held else "  FAIL ", style="green" if held else "bold red")
        self._console.print(mark + Text(claim, style="" if held else "bold"))
        return held

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        with self._console.status(text):
            yield

    def quote(self, command: str, output: str) -> None:
        self._console.print(Text(f"  $ {command}", style="bold"))
        self._console.print(Padding(Text.from_ansi(output.rstrip()), (0, 0, 0, 4)))

    def comparison(self, rows: Sequence[tuple[str, Decimal | int, Decimal | int, Decimal | int]]) -> None:
        table = Table(pad_edge=False)
        table.add_column("")
        for heading in ("emulator's books", "our log", "difference"):
            table.add_column(heading, justify="right")
        for name, theirs, ours, difference in rows:
            style = "" if difference == 0 else "bold red"
            table.add_row(name, *(_plain(value) for value in (theirs, ours, difference)), style=style)
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def killed(self, *, billed: str, unknown: int) -> None:
        self.say(
            f"  and the killed call, outside the difference: books: billed {billed}; ours: unknown ({unknown} call)"
        )

    def attacked(self, name: str, found: Sequence[str]) -> None:
        self._console.print(Text(f"  {name}: ") + Text("; ".join(found) or "nothing found", style="yellow"))


def _plain(value: Decimal | int) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)

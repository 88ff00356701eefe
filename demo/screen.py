"""What the demo prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


class Screen:
    """A terminal, or a log file: colours and spinners only on the former."""

    def __init__(self) -> None:
        self.width = max(100, min(140, Console().width))
        self._console = Console(highlight=False, width=self.width)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(f"{text} ".ljust(self.width, "─"), style="bold"))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def check(self, held: bool, claim: str) -> bool:
        mark = Text("  ok   " if held else "  FAIL ", style="green" if held else "bold red")
        self._console.print(mark + Text(claim, style="" if held else "bold"), soft_wrap=True)
        return held

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        with self._console.status(text):
            yield

    def quote(self, command: str, output: str) -> None:
        self._console.print(Text(f"  $ {command}", style="bold"))
        for line in output.rstrip().splitlines():
            self._console.print(Text("    ") + Text.from_ansi(line.rstrip()), soft_wrap=True)

    def comparison(self, rows: Sequence[tuple[str, Decimal | int, Decimal | int, Decimal | int]]) -> None:
        table = Table(box=SIMPLE, pad_edge=False)
        table.add_column("")
        for heading in ("emulator's books", "our log", "difference"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, theirs, ours, difference in rows:
            style = "" if difference == 0 else "bold red"
            shown = (_plain(theirs), _plain(ours), "0" if difference == 0 else _plain(difference))
            table.add_row(name, *shown, style=style)
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def killed(self, *, billed: str, unknown: int) -> None:
        self.say(
            f"  and the killed call, outside the difference: books: billed {billed}; ours: unknown ({unknown} call)"
        )

    def attacked(self, name: str, found: Sequence[str]) -> None:
        self._console.print(
            Text(f"  {name}: ") + Text("; ".join(found) or "nothing found", style="yellow"), soft_wrap=True
        )


def _plain(value: Decimal | int) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)

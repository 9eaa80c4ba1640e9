"""What commands print on stdout: tables for people, one JSON document for programs. The log is on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

WIDE = 10_000
"""Width when stdout is no terminal: nothing is cut off in a pipe."""


def print_json(value: object) -> None:
    """One JSON document, indented; dataclasses, msgspec structs, paths and times included."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def format_bytes(size: int) -> str:
    """A size for people, in powers of 1024: "812 B", "3.4 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def print_line(text: str) -> None:
    """One line of plain text."""
    sys.stdout.write(text + "\n")


def warn(text: str) -> None:
    """A line on stderr about what the answer does not have."""
    sys.stderr.write(f"Warning: {text}\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table; numbers to the right, None as a dash."""
    cells = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[position], int | float | None) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else WIDE
    Console(file=sys.stdout, markup=False, highlight=False, width=width).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

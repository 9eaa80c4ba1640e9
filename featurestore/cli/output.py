"""What commands print on stdout: tables for people, one JSON document for programs. The log is on stderr."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec
from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, JustifyMethod
from rich.table import Table

from featurestore.cli.table_layout import GAP, Placed, lay_out, wrap

WIDE = 10_000
"""Width when stdout is no terminal: nothing is cut off in a pipe."""
RICH_MOST = 500
"""A table of more rows is drawn without style: rich takes half a millisecond a row."""


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


def print_note(text: str) -> None:
    """A remark below a table, indented; on a terminal it wraps between words."""
    width = Console(file=sys.stdout).width if sys.stdout.isatty() else WIDE
    wrapper = textwrap.TextWrapper(
        width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    print_line(wrapper.fill(text))


def warn(text: str) -> None:
    """A line on stderr about what the answer does not have."""
    sys.stderr.write(f"Warning: {text}\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, key_columns: int = 1) -> None:
    """A table; numbers to the right, None as a dash.

    key_columns: how many of the first columns say what a row is about. Where the table is too wide for the terminal all
    but the last of them become headings, and if it is too wide even so it goes on below with the last one repeated.
    """
    values = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in values]
    numeric = [
        bool(values) and all(isinstance(row[position], int | float | None) for row in values)
        for position in range(len(columns))
    ]
    console = Console(file=sys.stdout, markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    headings = 0 if len(lay_out(columns, cells, key_columns, console.width)) == 1 else key_columns - 1
    inner = [row[headings:] for row in cells]
    tables = lay_out(columns[headings:], inner, key_columns - headings, console.width)
    groups = groupby(zip(cells, inner, strict=True), key=lambda both: both[0][:headings]) if headings else [([], None)]
    for number, (heading, members) in enumerate(groups):
        if heading:
            console.print(("\n" if number else "") + wrap(" · ".join(heading), console.width), style="bold")
        shown = inner if members is None else [row for _, row in members]
        for part, placed in enumerate(tables):
            if part:
                console.print()
            if len(shown) <= RICH_MOST:
                console.print(make_table(columns[headings:], shown, numeric[headings:], placed))
            else:
                sys.stdout.writelines(plain_table(columns[headings:], shown, numeric[headings:], placed))


def make_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], placed: Sequence[Placed]
) -> Table:
    """The columns that are placed, of a table of text. numeric: which columns of the whole go to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in placed:
        justify: JustifyMethod = "right" if numeric[column.position] else "left"
        table.add_column(columns[column.position], justify=justify, overflow="fold", width=column.width)
    for row in rows:
        table.add_row(*(wrap(row[column.position], column.width) for column in placed))
    return table


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], placed: Sequence[Placed]
) -> Iterator[str]:
    """The lines of what `make_table` draws, without style: for many rows."""
    total = sum(column.width for column in placed) + GAP * (len(placed) - 1)
    for number, row in enumerate((columns, *rows)):
        wrapped = [_folded(row[column.position], column.width) for column in placed]
        for line in range(max(map(len, wrapped))):
            texts = [lines[line] if line < len(lines) else "" for lines in wrapped]
            pads = [" " * (column.width - cell_len(text)) for column, text in zip(placed, texts, strict=True)]
            cells = (
                pad + text if numeric[column.position] else text + pad
                for column, text, pad in zip(placed, texts, pads, strict=True)
            )
            yield (" " * GAP).join(cells) + "\n"
        if number == 0:
            yield "─" * total + "\n"


def _folded(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` characters; a word that is longer is cut."""
    if cell_len(text) <= width:
        return [text]
    return [piece for line in wrap(text, width).split("\n") for piece in chop_cells(line, width)]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Fit a table into a terminal: headers wrap between words, and what does not fit side by side goes below.

No column is dropped and no word broken, as long as the key columns and one more fit: a figure in two halves is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

GAP = 3
"""Characters between two columns, as rich draws a table without lines."""

WHOLE = 32
"""A cell up to this many characters stays on one line; a longer one, a sentence or a path, wraps between its words."""

_WORD = re.compile(r"[^\s/]*/|[^\s/]+")


@dataclass(frozen=True)
class Placed:
    """A column of the table, by its position, and the characters that it gets."""

    position: int
    width: int


def lay_out(columns: Sequence[str], rows: Sequence[Sequence[str]], key_columns: int, room: int) -> list[list[Placed]]:
    """The tables to print one below the other, each with the first `key_columns` columns, in the columns' order.

    rows: cells as text, one for each column. room: characters of a line.
    """
    least = [_least_width(name, [row[i] for row in rows]) for i, name in enumerate(columns)]
    natural = [max([cell_len(name), *(cell_len(row[i]) for row in rows)]) for i, name in enumerate(columns)]
    keys = list(range(key_columns))
    groups = [list(keys)]
    for position in range(key_columns, len(columns)):
        if len(groups[-1]) > key_columns and _total([least[i] for i in [*groups[-1], position]]) > room:
            groups.append(list(keys))
        groups[-1].append(position)
    return [_widen(group, least, natural, room) for group in groups]


def wrap(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, broken at spaces and behind slashes; a word stays whole."""
    lines = [""]
    for piece in re.findall(r"\s*(?:[^\s/]*/|[^\s/]+)", text):
        if cell_len(lines[-1] + piece) <= width or not lines[-1]:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip())
    return "\n".join(lines)


def _widen(group: Sequence[int], least: Sequence[int], natural: Sequence[int], room: int) -> list[Placed]:
    """Give the columns what is left of the line, the first ones first; take from the widest where nothing is."""
    widths = [least[position] for position in group]
    for i, position in enumerate(group):
        widths[i] += max(0, min(natural[position] - widths[i], room - _total(widths)))
    while _total(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return [Placed(position, width) for position, width in zip(group, widths, strict=True)]


def _least_width(name: str, cells: Sequence[str]) -> int:
    return max([_longest_word(name), *(cell_len(c) if cell_len(c) <= WHOLE else _longest_word(c) for c in cells)])


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in _WORD.findall(text)), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)

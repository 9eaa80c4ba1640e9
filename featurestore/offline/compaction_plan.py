"""Decide which small files become one: pure, from the figures of their footers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from featurestore.offline.pieces import Piece


@dataclass(frozen=True)
class CompactionLimits:
    """How large a compacted file may become.

    rows, plain_bytes: so that a reader that takes a whole file into memory, as the compaction does, needs some hundred
    MB. size_bytes: on disk. span: of event time, so that retention, which removes whole files, keeps little too long.
    """

    rows: int = 1_000_000
    size_bytes: int = 128 * 2**20
    plain_bytes: int = 512 * 2**20
    span: timedelta = timedelta(days=7)


LIMITS = CompactionLimits()


def plan_runs(pieces: Sequence[Piece], limits: CompactionLimits = LIMITS) -> list[list[Piece]]:
    """The runs of neighbouring pieces that become one each; none for pieces that stay as they are.

    pieces: of one partition or dataset, in order. A run has one schema, no hole between its offsets, and keeps the
    limits. A piece that holds more than half of its run's rows is not rewritten for the sake of the others: so each row
    is rewritten about log2(size of a full file / size of a small one) times, however often compaction runs.
    """
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and _fits(runs[-1], piece, limits):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [run for run in map(_without_large_head, runs) if len(run) > 1]


def _fits(run: Sequence[Piece], piece: Piece, limits: CompactionLimits) -> bool:
    together = [*run, piece]
    last = run[-1]
    if piece.schema != last.schema or (piece.span and last.span and piece.span[0] != last.span[1]):
        return False
    earliest = min((one.earliest for one in together if one.earliest is not None), default=None)
    latest = max((one.latest for one in together if one.latest is not None), default=None)
    return (
        sum(one.rows for one in together) <= limits.rows
        and sum(one.size_bytes for one in together) <= limits.size_bytes
        and sum(one.plain_bytes for one in together) <= limits.plain_bytes
        and (earliest is None or latest is None or latest - earliest <= limits.span)
    )


def _without_large_head(run: list[Piece]) -> list[Piece]:
    while len(run) > 1 and 2 * run[0].rows > sum(piece.rows for piece in run):
        run = run[1:]
    return run

"""Whether a run of the race gave the right rows.

`python -m benchmarks.race.check SHAPE EVENTS PARTITIONS SEED ENGINE PATH`

PATH: the offline store of ours, the file of rows of a peer. All is computed again from the generator with polars, as in
`benchmarks/check.py`. What each engine has emitted at the end of the topic differs, and is compared as far as it goes:

    featurestore  windows that end at or before the view's watermark; late events correct what was emitted
    quixstreams   windows that end at or before their partition's newest event - grace
    bytewax       every window: the end of the input closes all
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from benchmarks.check import (
    KEYS,
    MINUTE_US,
    VIEW,
    aggregates,
    archive_complaints,
    complaints,
    judged_events,
    sliding_rows,
    stored_rows,
    watermark_of,
    window_rows,
)
from benchmarks.events import STREAMS
from benchmarks.race.shapes import GRACE_MS, SHAPES, Shape

UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
PAIRS = 20_000_000
"""Pairs of a row and an event that are held at a time."""


def span_us(text: str) -> int:
    """ "10m" in µs."""
    return int(text[:-1]) * UNIT_US[text[-1]]


def sliding_rows_by_pairs(
    accepted: pl.DataFrame, watermark: int, windows: Mapping[str, tuple[int, int]]
) -> pl.DataFrame:
    """As `sliding_rows`, for few events of a card over many minutes: each row is paired with its card's events.

    windows: by name, size and tile in µs.
    """
    card = accepted["card_id"].rank("dense").alias("card")  # numbers are joined faster than text
    events = accepted.select(card, "amount", "time", pl.col("watermark").fill_null(-1))
    end = (pl.col("time") // MINUTE_US + 1) * MINUTE_US
    rows = accepted.select("card_id", card, end.alias("end")).unique().filter(pl.col("end") <= watermark)
    size = events.group_by("card").len("events").join(rows.group_by("card").len("rows"), on="card")
    part = (pl.col("events").cast(pl.Int64) * pl.col("rows")).cum_sum() // PAIRS
    parts = size.select("card", part.alias("part")).partition_by("part")
    return pl.concat([_paired(rows.join(part, on="card", how="semi"), events, windows) for part in parts])


def _paired(rows: pl.DataFrame, events: pl.DataFrame, windows: Mapping[str, tuple[int, int]]) -> pl.DataFrame:
    rows = rows.with_row_index("row")
    longest = max(size + tile for size, tile in windows.values())
    own = pl.col("time") >= pl.col("end") - MINUTE_US
    known = (pl.col("time") < pl.col("end")) & (own | (pl.col("watermark") < pl.col("end")))
    pairs = rows.select("row", "card", "end").join(events, on="card")
    pairs = pairs.filter(known & (pl.col("time") >= pl.col("end") - longest)).select("row", "end", "amount", "time")
    for window, (size, tile) in windows.items():
        inside = pairs.filter(pl.col("time") >= (pl.col("end") - size) // tile * tile)
        rows = rows.join(inside.group_by("row").agg(aggregates(window)), on="row", how="left")
    return rows


def expected_of_ours(shape: Shape, accepted: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame, list[str]]]:
    """Each dataset of the shape: its name, its rows, its windows."""
    watermark = watermark_of(accepted)
    sliding: dict[str, tuple[int, int]] = {}
    for window in shape.windows:
        if window.kind == "sliding":
            sliding[window.size] = span_us(window.size), span_us(window.tile)
            continue
        name = "_".join(part for part in (window.kind, window.size, window.every) if part)
        every = span_us(window.every or window.size)
        yield name, window_rows(accepted, watermark, name, span_us(window.size), every), [name]
    if sliding:
        sparse = bool(STREAMS[shape.stream].ages)
        rows = sliding_rows_by_pairs if sparse else sliding_rows
        yield "sliding", rows(accepted, watermark, sliding), list(sliding)


def check_ours(shape: Shape, accepted: pl.DataFrame, events: int, offline: Path) -> tuple[int, list[str]]:
    """Rows that are right to be there, and what differs."""
    found, total = archive_complaints(offline, accepted.height, events), 0
    for name, expected, windows in expected_of_ours(shape, accepted):
        actual = stored_rows(offline / "features" / VIEW / "v1" / name)
        found += [f"{name}: {complaint}" for complaint in complaints(expected, actual, windows, shape.functions)]
        total += expected.height
    return total, found


def check_peer(shape: Shape, accepted: pl.DataFrame, engine: str, path: Path) -> tuple[int, list[str]]:
    """Rows that are right to be there, and what differs. path: JSON lines of card_id, end (ms), count and functions."""
    window = shape.windows[0]
    name, size, every = window.kind, span_us(window.size), span_us(window.every or window.size)
    parts = []
    for events in accepted.partition_by("partition"):
        newest = int(events["newest"][0])
        closed = newest - GRACE_MS * 1_000 if engine == "quixstreams" else newest + size + every
        parts.append(window_rows(events, closed, name, size, every))
    expected = pl.concat(parts)
    columns = ("count", *shape.functions)
    names = [f"count_{name}", *(f"amount_{function}_{name}" for function in shape.functions)]
    schema = {"card_id": pl.String, "end": pl.Int64, "count": pl.Int64} | dict.fromkeys(shape.functions, pl.Float64)
    rows = pl.read_ndjson(path, schema=schema)
    actual = rows.select("card_id", pl.col("end") * 1_000, *(pl.col(c).alias(n) for c, n in zip(columns, names)))
    found = [] if actual.select(KEYS).is_unique().all() else ["a card's window comes twice"]
    return expected.height, found + complaints(expected, actual, [name], shape.functions)


def main(arguments: list[str]) -> int:
    """Compare, print what was found as JSON."""
    shape, engine, path = SHAPES[arguments[0]], arguments[4], Path(arguments[5])
    events, partitions, seed = (int(argument) for argument in arguments[1:4])
    accepted = judged_events(events, partitions, seed, STREAMS[shape.stream])
    if engine == "featurestore":
        rows, found = check_ours(shape, accepted, events, path)
    else:
        assert accepted.height == events, "peers keep every event: none may be too late"
        rows, found = check_peer(shape, accepted, engine, path)
    print(json.dumps({"rows": rows, "wrong": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

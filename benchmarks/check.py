"""Whether the run of the standard job gave the right rows.

`python -m benchmarks.check OFFLINE EVENTS PARTITIONS SEED`

Everything is computed again from the generator with polars, by the rules of the documentation and without the
project's code, and compared with all Parquet files under OFFLINE.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from benchmarks.events import STREAMS, Stream, make_events, partitions_of

SOURCE, VIEW = "payments", "card_amounts"
OUT_OF_ORDERNESS_US = 5_000_000
ALLOWED_LATENESS_US = 60_000_000
MINUTE_US = 60_000_000
SLIDING_US = {"10m": (600_000_000, 10_000_000), "1h": (3_600_000_000, 60_000_000)}  # size, tile
TOLERANCE = 1e-9
FUNCTIONS = ("sum", "min", "max", "mean")
KEYS = ["card_id", "end"]


def judged_events(events: int, partitions: int, seed: int, stream: Stream = STREAMS["payments"]) -> pl.DataFrame:
    """Accepted events: card_id, amount, time, partition.

    watermark: of its partition before the event; newest: the partition's largest time at the end.
    """
    made = make_events(events, seed, stream)
    partition = partitions_of(made, partitions, stream)
    time = pl.col("ts") * 1_000
    before = pl.col("time").cum_max().shift(1).over("partition") - OUT_OF_ORDERNESS_US
    return (
        made.select("card_id", "amount", time.alias("time"), partition)
        .with_columns(before.alias("watermark"), pl.col("time").max().over("partition").alias("newest"))
        .filter(pl.col("watermark").is_null() | (pl.col("time") >= pl.col("watermark") - ALLOWED_LATENESS_US))
    )


def watermark_of(accepted: pl.DataFrame) -> int:
    """Watermark of the view at the end of the topic, µs."""
    return int(accepted["newest"].min()) - OUT_OF_ORDERNESS_US  # type: ignore[arg-type]


def aggregates(window: str, functions: Sequence[str] = FUNCTIONS) -> list[pl.Expr]:
    """The features of a window by their names, and Σ|x| of it as `scale`."""
    amount = pl.col("amount")
    named = [getattr(amount, function)().alias(f"amount_{function}_{window}") for function in functions]
    return [
        pl.len().cast(pl.Int64).alias(f"count_{window}"),
        *named,
        amount.abs().sum().alias(f"scale_{window}"),
    ]


def window_rows(accepted: pl.DataFrame, watermark: int, window: str, size: int, every: int) -> pl.DataFrame:
    """A row for each card and passed window of `size` that ends at a multiple of `every` and holds an event."""
    pane = pl.col("time") // every * every
    last = pl.int_ranges(pane + every, pane + every + size, every)
    rows = accepted.with_columns(last.alias("end")).explode("end").filter(pl.col("end") <= watermark)
    return rows.group_by(KEYS).agg(aggregates(window))


def sliding_rows(
    accepted: pl.DataFrame, watermark: int, windows: Mapping[str, tuple[int, int]] = SLIDING_US
) -> pl.DataFrame:
    """A row for each card and passed minute with an event: the windows that end with that minute.

    windows: by name, size and tile in µs.
    """
    boundaries = []
    first = int(accepted["time"].min()) // MINUTE_US + 1  # type: ignore[arg-type]
    for boundary in range(first * MINUTE_US, watermark + 1, MINUTE_US):
        own = pl.col("time") >= boundary - MINUTE_US
        in_time = pl.col("watermark").is_null() | (pl.col("watermark") < boundary)
        known = accepted.filter((pl.col("time") < boundary) & (own | in_time))
        rows = known.filter(own).select("card_id").unique()
        for window, (size, tile) in windows.items():
            inside = known.filter(pl.col("time") >= (boundary - size) // tile * tile)
            rows = rows.join(inside.group_by("card_id").agg(aggregates(window)), on="card_id", how="left")
        boundaries.append(rows.with_columns(pl.lit(boundary).alias("end")))
    return pl.concat(boundaries)


def stored_rows(folder: Path) -> pl.DataFrame:
    """The valid rows of a dataset: of each card and window the one of the highest revision."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"no files in {folder}")
    rows = pl.concat([pl.read_parquet(file) for file in files])
    rows = rows.with_columns(pl.col("window_end").dt.epoch("us").alias("end"))
    return rows.sort("revision").unique(KEYS, keep="last")


def complaints(
    expected: pl.DataFrame, actual: pl.DataFrame, windows: Sequence[str], functions: Sequence[str] = FUNCTIONS
) -> list[str]:
    """What differs between two sets of rows."""
    found = []
    if expected.height != actual.height:
        found.append(f"{actual.height} rows, expected {expected.height}")
    both = expected.join(actual, on=KEYS, how="inner", suffix="_actual")
    if both.height != expected.height:
        found.append(f"{expected.height - both.height} of the expected rows are missing")
    for window in windows:
        for name in (f"count_{window}", *(f"amount_{function}_{window}" for function in functions)):
            value, wanted = pl.col(f"{name}_actual"), pl.col(name)
            right = value == wanted
            if "_sum_" in name or "_mean_" in name:
                right = (value - wanted).abs() <= TOLERANCE * pl.col(f"scale_{window}")
            wrong = both.filter(~right.fill_null(False))
            if wrong.height:
                example = wrong.row(0, named=True)
                found.append(
                    f"{name}: {wrong.height} rows differ, like {example['card_id']} at {example['end']}: "
                    f"{example[name + '_actual']}, expected {example[name]}"
                )
    return found


def archived(root: Path, kind: str) -> int:
    """Rows under events/, late/ or dead_letter/."""
    files = sorted((root / kind / SOURCE).rglob("*.parquet"))
    return sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)


def archive_complaints(root: Path, accepted: int, events: int) -> list[str]:
    """What differs between the archive's counts and what was sent."""
    counts = {"events": accepted, "late": events - accepted, "dead_letter": 0}
    found = {kind: archived(root, kind) for kind in counts}
    return [
        f"{kind}: {found[kind]} messages, expected {counts[kind]}" for kind in counts if found[kind] != counts[kind]
    ]


def main(arguments: list[str]) -> int:
    """Compare, print what was found as JSON."""
    root = Path(arguments[0])
    events, partitions, seed = (int(argument) for argument in arguments[1:4])
    accepted = judged_events(events, partitions, seed)
    watermark = watermark_of(accepted)
    found = archive_complaints(root, accepted.height, events)
    rows = {}
    for name, expected, windows in (
        ("tumbling_1m", window_rows(accepted, watermark, "tumbling_1m", MINUTE_US, MINUTE_US), ["tumbling_1m"]),
        ("sliding", sliding_rows(accepted, watermark), list(SLIDING_US)),
    ):
        actual = stored_rows(root / "features" / VIEW / "v1" / name)
        found += [f"{name}: {complaint}" for complaint in complaints(expected, actual, windows)]
        rows[name] = expected.height
    late_accepted = accepted.filter(pl.col("time") < pl.col("watermark")).height
    print(json.dumps({"rows": rows, "accepted": accepted.height, "late_accepted": late_accepted, "wrong": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

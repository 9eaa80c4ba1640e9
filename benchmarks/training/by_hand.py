"""The same by hand, without the tail that tiles round out: `python -m benchmarks.training.by_hand ENGINE FOLDER`.

duckdb: window functions over events and spine in one table. polars: rolling sums over the same, gathered by key and
time. Both take the event of the instant itself, which a feature store must not; the figures are of time alone.
duckdb-asof, polars-asof: the newest amount before the instant, comparable row by row.
"""

from __future__ import annotations

import sys
from pathlib import Path

WINDOWS = {"10m": "10 MINUTE", "1h": "1 HOUR", "24h": "24 HOUR"}


def by_duckdb(folder: Path) -> int:
    """Rows of the result."""
    import duckdb

    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'; SET threads = 2")
    features = ", ".join(
        f"count(amount) OVER {name} AS count_{name}, sum(amount) OVER {name} AS sum_{name}, "
        f"max(amount) OVER {name} AS max_{name}"
        for name in ("w10m", "w1h", "w24h")
    )
    windows = ", ".join(
        f"w{name} AS (PARTITION BY card_id ORDER BY instant RANGE BETWEEN INTERVAL {span} PRECEDING AND CURRENT ROW)"
        for name, span in WINDOWS.items()
    )
    database.execute(f"""
        COPY (
            SELECT * EXCLUDE (is_spine, amount) FROM (
                SELECT card_id, instant, is_spine, amount, {features} FROM (
                    SELECT card_id, event_timestamp AS instant, NULL AS amount, true AS is_spine
                    FROM '{folder}/spine.parquet'
                    UNION ALL
                    SELECT card_id, event_time, amount, false FROM '{folder}/events.parquet'
                ) WINDOW {windows}
            ) WHERE is_spine
        ) TO '{folder}/duckdb.parquet'
    """)
    return int(database.execute(f"SELECT count(*) FROM '{folder}/duckdb.parquet'").fetchall()[0][0])


def by_polars(folder: Path) -> int:
    """Rows of the result."""
    import polars as pl

    spine = pl.read_parquet(folder / "spine.parquet").rename({"event_timestamp": "event_time"})
    events = pl.read_parquet(folder / "events.parquet").sort("card_id", "event_time")
    result = spine.sort("event_time")
    for name in WINDOWS:
        rolled = events.rolling("event_time", period=name, group_by="card_id", closed="both").agg(
            pl.len().alias(f"count_{name}"),
            pl.col("amount").sum().alias(f"sum_{name}"),
            pl.col("amount").max().alias(f"max_{name}"),
        )
        result = result.join_asof(rolled.sort("event_time"), on="event_time", by="card_id", check_sortedness=False)
    result.write_parquet(folder / "polars.parquet")
    return result.height


def newest_by_duckdb(folder: Path) -> int:
    """Rows of the result."""
    import duckdb

    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'; SET threads = 2")
    database.execute(f"""
        COPY (
            SELECT s.*, e.amount AS amount_last
            FROM '{folder}/spine.parquet' s ASOF LEFT JOIN '{folder}/events.parquet' e
            ON s.card_id = e.card_id AND s.event_timestamp > e.event_time
        ) TO '{folder}/duckdb-asof.parquet'
    """)
    return int(database.execute(f"SELECT count(*) FROM '{folder}/duckdb-asof.parquet'").fetchall()[0][0])


def newest_by_polars(folder: Path) -> int:
    """Rows of the result."""
    import polars as pl

    spine = pl.scan_parquet(folder / "spine.parquet").sort("event_timestamp")
    events = pl.scan_parquet(folder / "events.parquet").rename({"amount": "amount_last"}).sort("event_time")
    result = spine.join_asof(
        events,
        left_on="event_timestamp",
        right_on="event_time",
        by="card_id",
        allow_exact_matches=False,
        check_sortedness=False,
    ).collect()
    result.write_parquet(folder / "polars-asof.parquet")
    return result.height


ENGINES = {
    "duckdb": by_duckdb,
    "polars": by_polars,
    "duckdb-asof": newest_by_duckdb,
    "polars-asof": newest_by_polars,
}

if __name__ == "__main__":
    print(ENGINES[sys.argv[1]](Path(sys.argv[2])))

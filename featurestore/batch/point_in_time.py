"""Point-in-time join of a batch view: for each row of a spine the state of its entity just before its instant.

The rule is that of online reads (`online/batch_reader.py`), and the rows are those that were materialized.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.keys import encoded_key
from featurestore.offline.batch_rows import CREATED_TIMESTAMP, EVENT_TIMESTAMP, scan_batch_rows

Knowledge = Literal["event", "arrival"]

INSTANT = "t_us"
"""Column of the spine: the instants, Int64 µs."""

_KEY, _KNOWN, _EVENT, _CREATED, _ORDER, _RANK = "_key", "_known_us", "_event_us", "_created_us", "_order", "_rank"


def join_batch_view(
    root: Path,
    view: CompiledBatchView,
    spine: pl.DataFrame,
    *,
    features: Sequence[str] | None = None,
    knowledge: Knowledge = "event",
    known_by_us: int | None = None,
    files: Sequence[str] | None = None,
) -> pl.DataFrame:
    """The features of a batch view for each row of a spine.

    root: the offline store. spine: the view's join keys, in their dtypes, and `t_us` (Int64 µs); other columns don't
    matter. features: names and their order, all by default. knowledge: "event" takes a row from its event time on;
    "arrival" only once it was also created, or materialized where the source does not say when it was. known_by_us:
    rows that became known later are left out. files: names of those to read, all by default.

    Returns the feature columns alone, shape (len(spine), features), rows in the spine's order. A row counts for
    event time < t; of several the newest by event time, created time and order in the source. No such row: the
    feature's default; one older than the ttl, or a null join key or t: as for an entity that is not known.
    """
    names = list(view.features) if features is None else list(features)
    asked = spine.select(encoded_key(view.spec.join_keys).alias(_KEY), pl.col(INSTANT).alias(_KNOWN))
    asked = asked.with_row_index("_row")
    rows = _rows(scan_batch_rows(root, view, files), view, spine, names, knowledge, known_by_us)
    # Of the rows known so far the highest one counts: with late arrivals it need not be the one known last.
    best = (
        rows.sort(_KEY, _KNOWN, _RANK)
        .with_columns(pl.col(_RANK).cum_max().over(_KEY))
        .unique([_KEY, _KNOWN], keep="last", maintain_order=True)
        .select(_KEY, _KNOWN, _RANK)
    )
    found = (
        asked.drop_nulls()
        .sort(_KNOWN)
        .join_asof(
            best.sort(_KNOWN),
            on=_KNOWN,
            by=_KEY,
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,  # it can't be seen with `by`, and both were sorted just now
        )
        .select("_row", _RANK)
        .join(rows.select(_RANK, _EVENT, *names), on=_RANK, how="left")
    )
    answer = asked.join(found, on="_row", how="left", maintain_order="left")
    return answer.select(_value(view, name) for name in names)


def _rows(
    stored: pl.LazyFrame,
    view: CompiledBatchView,
    spine: pl.DataFrame,
    names: Sequence[str],
    knowledge: Knowledge,
    known_by_us: int | None,
) -> pl.DataFrame:
    """Rows that can matter to the spine, numbered by `_rank`: higher is newer within an entity."""
    keys = view.key_names
    until = pl.lit(spine[INSTANT].max(), dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
    event, created = pl.col(EVENT_TIMESTAMP).dt.epoch("us"), pl.col(CREATED_TIMESTAMP).dt.epoch("us")
    return (
        stored.with_row_index(_ORDER)
        .filter(pl.col(EVENT_TIMESTAMP) < until)
        .filter(True if known_by_us is None else pl.max_horizontal(event, created) <= known_by_us)
        .join(spine.lazy().select(keys).unique(), on=keys, how="semi")
        .select(
            encoded_key(view.spec.join_keys).alias(_KEY), event.alias(_EVENT), created.alias(_CREATED), _ORDER, *names
        )
        .sort(_EVENT, _CREATED, _ORDER)
        .with_row_index(_RANK)
        .with_columns((pl.max_horizontal(_EVENT, _CREATED) if knowledge == "arrival" else pl.col(_EVENT)).alias(_KNOWN))
        .collect()
    )


def _value(view: CompiledBatchView, name: str) -> pl.Expr:
    """A feature's value: null past the ttl, the default for what is not known."""
    field = view.features[name]
    value = pl.col(name)
    if view.spec.ttl_us:
        value = pl.when(pl.col(_EVENT) >= pl.col(_KNOWN) - view.spec.ttl_us).then(value)
    if field.default is not None:
        default = pl.lit(field.default, dtype=getattr(pl, field.output_dtype))
        value = pl.when(pl.col(_EVENT).is_null()).then(default).otherwise(value)
    return value.alias(name)

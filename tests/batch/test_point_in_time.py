"""The join of a batch view gives what three loops give, and what an online read at the same instant gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batch.point_in_time import join_batch_view
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.batch import BatchFeatureView, Field, FileSource
from featurestore.definitions.entity import Entity
from featurestore.definitions.resolve_batch import resolve_batch_view
from tests.batch.support import INSTANT, Project, Row, Stored, compiled, hours, naive_state, write_rows

CARDS = ("a", "b")
TIMES = st.integers(0, 12)


@given(
    st.lists(
        st.builds(Row, st.sampled_from(CARDS), TIMES, st.one_of(st.none(), st.integers(0, 9)), TIMES), max_size=12
    ),
    st.lists(st.tuples(st.sampled_from((*CARDS, "nobody", None)), st.one_of(st.none(), TIMES)), max_size=12),
    st.sampled_from([None, 3, 1]),
    st.booleans(),
)
def test_the_join_says_what_three_loops_say(
    rows: list[Row], spine: list[tuple[str | None, int | None]], ttl: int | None, arrival: bool
):
    view = compiled(ttl=None if ttl is None else f"{ttl}h")
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), part_rows=3)
        write_rows(project.folder / "rows" / "1.parquet", rows)
        project.materialize(view, 20)
        frame = pl.DataFrame(
            {"card_id": [card for card, _ in spine], "t_us": [None if at is None else hours(at) for _, at in spine]},
            schema={"card_id": pl.String, "t_us": pl.Int64},
        )
        joined = join_batch_view(project.data / "offline", view, frame, knowledge="arrival" if arrival else "event")
    stored = [Stored(row.card or "", row.at or 0, row.credit, row.loaded or 0) for row in rows]
    states = [
        None if card is None or at is None else naive_state(stored, card, at, ttl=ttl, arrival=arrival)
        for card, at in spine
    ]
    assert joined.columns == ["credit"]
    assert joined["credit"].to_list() == [None if state is None else state.credit for state in states]


@given(
    st.lists(st.builds(Row, st.sampled_from(CARDS), TIMES, st.integers(0, 9), TIMES), max_size=10), st.integers(0, 3)
)
def test_online_and_training_agree_on_the_newest_row(rows: list[Row], later: int):
    view = compiled(ttl="6h")
    at = 13 + later * 4
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        write_rows(project.folder / "rows" / "1.parquet", rows)
        project.materialize(view, at)
        online = project.read(view, CARDS, at).columns["credit"].values
        spine = pl.DataFrame({"card_id": CARDS, "t_us": [hours(at)] * len(CARDS)})
        for knowledge in ("event", "arrival"):
            assert (
                join_batch_view(project.data / "offline", view, spine, knowledge=knowledge)["credit"].to_list()
                == online
            )


@pytest.fixture
def places(tmp_path: Path) -> tuple[Project, CompiledBatchView]:
    """Rows of an entity with two keys, and features with defaults."""
    entity = Entity("place", join_keys={"shop": pl.Int64, "area": pl.String})
    view = BatchFeatureView(
        "places",
        source=FileSource("places.parquet", event_time="at"),
        entities=[entity],
        features=[
            Field("size", pl.Float64, default=1),
            Field("open", pl.Boolean),
            Field("name", pl.String, default="?"),
        ],
        ttl="4h",
    )
    frame = pl.DataFrame(
        {"shop": [1, 1], "area": ["a|b", "a"], "size": [2.0, None], "open": [True, False], "name": ["x", None]},
        schema_overrides={"shop": pl.Int32},
    )
    frame.with_columns(pl.lit(hours(1)).cast(INSTANT).alias("at")).write_parquet(tmp_path / "places.parquet")
    project = Project(tmp_path)
    compiled_view = CompiledBatchView(3, 1, resolve_batch_view(view))
    project.materialize(compiled_view, 10)
    return project, compiled_view


def test_defaults_are_for_what_is_not_known_and_rows_keep_the_spines_order(places: tuple[Project, CompiledBatchView]):
    project, view = places
    spine = pl.DataFrame(
        {
            "label": [0, 1, 2, 3, 4],
            "area": ["zz", "a", "a|b", "a|b", None],
            "shop": [1, 1, 1, 1, 1],
            "t_us": [hours(2), hours(2), hours(2), hours(5.01), hours(2)],
        }
    )
    joined = join_batch_view(project.data / "offline", view, spine)
    unknown = (1.0, None, "?")
    # What was never seen has the defaults, what is past the ttl none.
    assert joined.rows() == [unknown, (None, False, None), (2.0, True, "x"), (None, None, None), unknown]
    some = join_batch_view(project.data / "offline", view, spine, features=["name", "size"])
    assert some.columns == ["name", "size"]
    assert some.equals(joined.select("name", "size"))


def test_before_anything_is_materialized_nothing_is_known(tmp_path: Path):
    view = compiled()
    spine = pl.DataFrame({"card_id": ["a"], "t_us": [hours(2)]})
    joined = join_batch_view(tmp_path, view, spine)
    assert joined.schema == {"credit": pl.Int64}
    assert joined["credit"].to_list() == [None]
    assert join_batch_view(tmp_path, view, spine.clear()).height == 0


def test_a_row_at_exactly_the_instant_does_not_count(tmp_path: Path):
    view = compiled()
    project = Project(tmp_path)
    write_rows(tmp_path / "rows" / "1.parquet", [Row("a", 1, 10, 1), Row("a", 2, 20, 3)])
    project.materialize(view, 10)
    instants = (1, 1.5, 2, 2.5, 3, 3.5)
    spine = pl.DataFrame({"card_id": ["a"] * len(instants), "t_us": [hours(at) for at in instants]})
    for knowledge, credit in (
        ("event", [None, 10, 10, 20, 20, 20]),
        ("arrival", [None, 10, 10, 10, 10, 20]),
    ):
        assert join_batch_view(project.data / "offline", view, spine, knowledge=knowledge)["credit"].to_list() == credit

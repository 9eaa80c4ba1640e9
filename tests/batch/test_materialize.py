"""Whatever the files, their changes and the runs: both stores hold what three loops over the rows say."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batch.point_in_time import join_batch_view
from featurestore.definitions.batch import FileSource
from featurestore.errors import ConfigError, SourceUnavailableError, StoreLockedError
from featurestore.online.source_store import lock_source
from featurestore.testing.crash import CrashSchedule, SimulatedCrash
from tests.batch.support import INSTANT, Project, Row, Stored, compiled, hours, naive_state, write_rows

CARDS = ("a", "b", "c")
LAST = 24


@dataclass(frozen=True)
class Step:
    """At `now` rows are added to a file, which is made or rewritten longer, and then the view is materialized."""

    now: float
    file: int
    rows: tuple[Row, ...]


def rows_strategy(created: bool) -> st.SearchStrategy[Row]:
    times = st.integers(0, LAST + 4)
    return st.builds(
        Row,
        st.sampled_from(CARDS),
        times,
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), times) if created else st.none(),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[bool, tuple[Step, ...]]:
    """Whether the source says when a row was created, and what happens."""
    created = draw(st.booleans())
    nows = sorted(draw(st.lists(st.integers(1, LAST), min_size=1, max_size=4, unique=True)))
    steps = [
        Step(now + 0.5, draw(st.integers(0, 2)), tuple(draw(st.lists(rows_strategy(created), max_size=6))))
        for now in nows
    ]
    return created, (*steps, Step(LAST + 10, 0, ()))


def identity(row: Row | Stored, created: float | None) -> tuple[object, ...]:
    """Of two rows alike, each in another run, the later one adds nothing; without a time of creation values decide."""
    return (row.card, row.at, row.credit, created)


def expected(steps: Sequence[Step]) -> list[Stored]:
    """The rows that runs at the steps' instants find, in the order in which they find them."""
    files: dict[int, list[Row]] = {}
    stored: list[Stored] = []
    known: set[tuple[object, ...]] = set()
    for step in steps:
        files.setdefault(step.file, []).extend(step.rows)
        fresh: list[Stored] = []
        for file in sorted(files):
            for row in files[file]:
                assert row.card is not None
                assert row.at is not None
                if max(row.at, row.loaded or 0) >= step.now or identity(row, row.loaded) in known:
                    continue
                fresh.append(Stored(row.card, row.at, row.credit, row.loaded if row.loaded is not None else step.now))
        known |= {identity(row, told) for row in fresh for told in (None, row.created)}
        stored += fresh
    return stored


def source(created: bool) -> FileSource:
    return FileSource("rows/*.parquet", event_time="at", created_time="loaded" if created else None)


def play(project: Project, history: tuple[bool, tuple[Step, ...]], crashes: CrashSchedule | None = None) -> None:
    created, steps = history
    view = compiled(source(created))
    files: dict[int, list[Row]] = {}
    for step in steps:
        files.setdefault(step.file, []).extend(step.rows)
        path = project.folder / "rows" / f"{step.file}.parquet"
        write_rows(path, files[step.file])
        for attempt in range(50):
            try:
                if crashes is None:
                    project.materialize(view, step.now)
                else:
                    project.materialize(view, step.now, crash_point=crashes)
                break
            except SimulatedCrash:
                assert attempt < 49


def check(project: Project, history: tuple[bool, tuple[Step, ...]], *, arrival: bool) -> None:
    created, steps = history
    view = compiled(source(created))
    rows = expected(steps)
    for at in (steps[-1].now, steps[0].now):
        read = project.read(view, CARDS, at)
        for card, credit, status, time in zip(
            CARDS, read.columns["credit"].values, read.columns["credit"].statuses, read.event_times_us, strict=True
        ):
            newest = naive_state(rows, card, float("inf"))
            if newest is None or newest.at >= at:
                assert (credit, status, time) == (None, "NOT_FOUND", 0)
            else:
                assert credit == newest.credit
                assert status == ("NULL_VALUE" if newest.credit is None else "PRESENT")
                assert time == hours(newest.at)
    spine = pl.DataFrame(
        [(card, hours(at)) for at in range(LAST + 12) for card in CARDS], ["card_id", "t_us"], orient="row"
    )
    for knowledge in ("event", *(["arrival"] if arrival else [])):
        joined = join_batch_view(project.data / "offline", view, spine, knowledge=knowledge)["credit"].to_list()
        oracle = [
            naive_state(rows, card, at, arrival=knowledge == "arrival") for at in range(LAST + 12) for card in CARDS
        ]
        assert joined == [None if row is None else row.credit for row in oracle]


@given(histories(), st.sampled_from([1, 2, 250_000]))
def test_both_stores_hold_what_the_oracle_says(history: tuple[bool, tuple[Step, ...]], part_rows: int):
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), part_rows=part_rows)
        play(project, history)
        check(project, history, arrival=True)


@given(histories(), st.integers(0, 2**32))
def test_killed_between_any_two_writes_both_stores_hold_the_same(history: tuple[bool, tuple[Step, ...]], seed: int):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as undisturbed:
        project, quiet = Project(Path(folder), part_rows=2), Project(Path(undisturbed), part_rows=2)
        play(project, history, CrashSchedule(seed, mean_points=3, deaths=8))
        play(quiet, history)
        check(project, history, arrival=True)
        view = compiled(source(history[0]))
        names = set(quiet.files(view))
        assert {name for name in project.files(view) if not name.startswith(".")} == names


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write(project: Project, name: str, *rows: Row) -> None:
    write_rows(project.folder / "rows" / f"{name}.parquet", rows)


def test_a_repeated_run_writes_nothing(project: Project):
    view = compiled()
    write(project, "1", Row("a", 1, 10, 1), Row("b", 2, 20, 2))
    project.materialize(view, 5)
    before = project.files(view)
    again = project.materialize(view, 6)[0]
    assert (again.read, again.rows, again.changed) == (0, 0, 0)
    assert project.files(view) == before


@pytest.mark.parametrize("created", [True, False])
def test_an_interval_done_again_writes_the_same_files(project: Project, created: bool):
    view = compiled(source(created))
    write(project, "1", *(Row("a", at, at, at) for at in range(10)))
    project.part_rows = 3
    project.materialize(view, 20, begin=2, end=9)
    before = project.files(view)
    assert len(before) == 3
    again = project.materialize(view, 21, begin=2, end=9)[0]
    assert (again.rows, again.changed) == (7, 0) if created else (again.rows, again.changed) == (7, 1)
    assert project.files(view) == before


def test_an_interval_done_again_over_fewer_rows_leaves_none_of_the_others(project: Project):
    view = compiled()
    project.part_rows = 2
    write(project, "1", *(Row("a", at, at, at) for at in range(6)))
    project.materialize(view, 20, begin=0, end=9)
    write(project, "1", Row("a", 1, 1, 1))
    project.materialize(view, 21, begin=0, end=9)
    assert project.rows(view)["credit"].to_list() == [1]


def test_an_older_row_never_overwrites_a_newer_one(project: Project):
    view = compiled()
    write(project, "1", Row("a", 5, 50, 5))
    project.materialize(view, 6)
    write(project, "2", Row("a", 4, 40, 7), Row("b", 4, 41, 7))
    done = project.materialize(view, 8)[0]
    assert (done.rows, done.changed) == (2, 1)
    assert project.read(view, ["a", "b"], 9).columns["credit"].values == [50, 41]


def test_rows_that_came_late_for_an_earlier_interval_are_found(project: Project):
    # The file of 3 o'clock is written at 6: every interval of event times that holds its rows is over by then.
    view = compiled(source(False))
    write(project, "1", Row("a", 1, 10))
    project.materialize(view, 5)
    write(project, "2", Row("b", 3, 30))
    assert project.materialize(view, 7)[0].rows == 1
    assert project.read(view, ["b"], 8).columns["credit"].values == [30]


def test_a_file_that_grew_adds_only_its_new_rows(project: Project):
    view = compiled(source(False))
    write(project, "1", Row("a", 1, 10), Row("b", 1, None))
    project.materialize(view, 5)
    write(project, "1", Row("a", 1, 10), Row("b", 1, None), Row("a", 2, 11))
    done = project.materialize(view, 6)[0]
    assert (done.read, done.rows, done.changed) == (3, 1, 1)
    assert len(project.rows(view)) == 3


def test_a_row_valid_from_tomorrow_waits_for_its_time(project: Project):
    view = compiled()
    write(project, "1", Row("a", 1, 10, 1), Row("a", 30, 99, 1))
    project.materialize(view, 5)
    assert project.read(view, ["a"], 20).columns["credit"].values == [10]
    project.materialize(view, 31)
    assert project.read(view, ["a"], 31).columns["credit"].values == [99]
    assert project.materialize(view, 40)[0].read == 0  # no row of the file can become known any more


def test_a_corrected_value_of_one_event_time_counts_once_it_is_there(project: Project):
    view = compiled(source(False))
    write(project, "1", Row("a", 1, 10))
    project.materialize(view, 5)
    write(project, "1", Row("a", 1, 12))
    project.materialize(view, 6)
    assert project.read(view, ["a"], 7).columns["credit"].values == [12]
    spine = pl.DataFrame({"card_id": ["a", "a"], "t_us": [hours(5.5), hours(6.5)]})
    for knowledge, values in (("event", [12, 12]), ("arrival", [10, 12])):
        joined = join_batch_view(project.data / "offline", view, spine, knowledge=knowledge)  # type: ignore[arg-type]
        assert joined["credit"].to_list() == values


def test_rows_without_key_or_event_time_are_counted(project: Project):
    view = compiled()
    write(project, "1", Row(None, 1, 10, 1), Row("a", None, 10, 1), Row("b", 1, 1, 1))
    done = project.materialize(view, 5)[0]
    assert (done.read, done.null_keys, done.null_times, done.rows) == (3, 1, 1, 1)


def test_a_read_before_the_newest_row_does_not_know_it(project: Project):
    view = compiled(ttl="6h")
    write(project, "1", Row("a", 1, 10, 1), Row("a", 5, 50, 5))
    project.materialize(view, 20)
    told = {at: project.read(view, ["a", None], at) for at in (5, 5.1, 11, 11.1)}
    assert [read.columns["credit"].statuses for read in told.values()] == [
        ["NOT_FOUND", "NOT_FOUND"],  # at exactly its event time it is not known
        ["PRESENT", "NOT_FOUND"],
        ["PRESENT", "NOT_FOUND"],  # exactly the ttl old
        ["OUTSIDE_MAX_AGE", "NOT_FOUND"],
    ]
    assert told[5].event_times_us == [0, 0]
    assert told[11.1].event_times_us == [hours(5), 0]


def test_a_backfill_leaves_the_end_where_it_was_and_adds_no_row_twice(project: Project):
    view = compiled()
    write(project, "1", *(Row("a", at, at, at) for at in range(10)))
    project.materialize(view, 12)
    done = project.materialize(view, 13, begin=2, end=6)[0]
    assert (done.rows, done.changed) == (0, 0)
    assert project.materialize(view, 14)[0].from_time == "2026-11-23T12:00:00Z"


def test_a_first_run_from_an_instant_leaves_out_what_was_before(project: Project):
    view = compiled()
    write(project, "1", *(Row("a", at, at, at) for at in range(10)))
    assert project.materialize(view, 12, begin=5, end=8)[0].rows == 3
    write(project, "2", Row("b", 2, 2, 2), Row("b", 6, 6, 6))
    assert project.materialize(view, 13)[0].rows == 3  # 8 and 9 of the first file, 6 of the second


def test_an_interval_that_leaves_a_gap_does_not_move_the_end(project: Project):
    view = compiled()
    write(project, "1", *(Row("a", at, at, at) for at in range(10)))
    project.materialize(view, 12, end=3)
    project.materialize(view, 12, begin=6, end=9)
    done = project.materialize(view, 12)[0]
    assert done.from_time == "2026-11-23T03:00:00Z"
    assert sorted(project.rows(view)["credit"].to_list()) == list(range(10))


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [(None, 13, "future"), (3, 3, "not before"), (None, 4, "is materialized")],
)
def test_an_interval_that_is_none_is_refused(project: Project, begin: float | None, end: float | None, says: str):
    view = compiled()
    write(project, "1", Row("a", 1, 10, 1))
    project.materialize(view, 5)
    with pytest.raises(ConfigError, match=says):
        project.materialize(view, 12, begin=begin, end=end)


def test_a_source_that_fails_leaves_the_run_to_the_next_one(project: Project):
    view = compiled()
    with pytest.raises(SourceUnavailableError, match="no file matches"):
        project.materialize(view, 5)
    write(project, "1", Row("a", 1, 10, 1))
    first, second = project.materialize(view, 6)
    assert (first.resumed, first.to_time, first.rows) == (True, "2026-11-23T05:00:00Z", 1)
    assert (second.resumed, second.from_time) == (False, "2026-11-23T05:00:00Z")


def test_two_runs_of_one_view_exclude_each_other(project: Project):
    view = compiled()
    write(project, "1", Row("a", 1, 10, 1))
    lock = lock_source(project.data, view.store)
    try:
        with pytest.raises(StoreLockedError, match=r"batch view 'limits' is being materialized by process \d+"):
            project.materialize(view, 5)
    finally:
        lock.release()
    project.materialize(view, 5)


def test_values_keep_their_types_through_both_stores(project: Project):
    view = compiled(rate=pl.Float64, tier=pl.String, blocked=pl.Boolean)
    frame = pl.DataFrame(
        {
            "card_id": ["a", "b", "c"],
            "credit": [2**63 - 1, -(2**63), None],
            "rate": [float("nan"), float("-inf"), 1.0],
            "tier": ["ä|~", "", None],
            "blocked": [True, False, None],
            "at": [hours(1)] * 3,
            "loaded": [hours(1)] * 3,
        }
    ).with_columns(pl.col("at", "loaded").cast(INSTANT))
    (project.folder / "rows").mkdir()
    frame.write_parquet(project.folder / "rows" / "1.parquet")
    project.materialize(view, 5)
    read = project.read(view, ["a", "b", "c"], 6)
    for name in view.features:
        assert pl.Series(read.columns[name].values, dtype=frame[name].dtype).equals(frame[name], null_equal=True)
    spine = frame.select("card_id").with_columns(t_us=pl.lit(hours(6)))
    assert join_batch_view(project.data / "offline", view, spine).equals(frame.select(list(view.features)))


def test_an_empty_source_is_materialized_to_nothing(project: Project):
    view = compiled()
    write(project, "1")
    assert project.materialize(view, 5)[0].rows == 0
    read = project.read(view, ["a"], 6)
    assert read.columns["credit"].statuses == ["NOT_FOUND"]

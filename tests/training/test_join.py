"""The point-in-time join against the oracle, row by row."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.training import history
from featurestore.training.history import JoinOptions, point_in_time_join
from featurestore.training.spine import Spine
from tests.oracle import Message, SourceParams
from tests.shard.test_histories import cases
from tests.strategies import PARAMS, Stream, random_stream, streams
from tests.training.support import assert_same_values, naive_join, wanted, write_archive

TTL = 2 * 3_600_000_000


def draw_spine(messages: list[Message], seed: int, rows: int) -> pl.DataFrame:
    """Instants on, just before and just after events, their arrivals, and the ends of what they count in."""
    chance = random.Random(seed)
    times = [m.event["ts"] for m in messages if m.event is not None and m.event["ts"] is not None]
    edges = [0, 60_000_000, 600_000_000, 610_000_000, 3_600_000_000, TTL]
    events = [m.event for m in messages if m.event is not None]
    seen = {name: sorted({e[name] for e in events if e[name] is not None}) for name in ("card_id", "merchant_id")}
    drawn = []
    for _ in range(rows):
        place = chance.choice(times) if times and chance.random() < 0.7 else chance.choice(messages).arrival_us
        drawn.append(place + chance.choice(edges) + chance.choice([-1, 0, 0, 1, chance.randrange(-(10**8), 10**8)]))
    return pl.DataFrame(
        {name: [chance.choice([*seen[name], "nobody", None]) for _ in drawn] for name in seen}
        | {
            "t": drawn,
        },
        schema={"card_id": pl.String, "merchant_id": pl.String, "t": pl.Int64},
    )


def check(root: Path, stream: Stream, params: SourceParams, seed: int, *, rows: int, options: JoinOptions) -> None:
    messages = [message for partition in stream for message in partition]
    if not messages:
        return
    verdicts = write_archive(root, stream, params)
    frame = draw_spine(messages, seed, rows)
    for case in cases(params):
        keys = frame.select(case.view.join_keys)
        joined = point_in_time_join(root, Spine(frame, frame["t"], keys), [wanted(case, params)], options)
        expected = naive_join(
            case,
            messages,
            verdicts,
            params,
            frame,
            by_arrival=options.knowledge == "arrival",
            known_by_us=options.known_by_us,
        )
        assert_same_values(expected, joined.features, case.bound.compiled.name)


@given(stream=streams(PARAMS), seed=st.integers(0, 2**16), arrival=st.booleans())
def test_any_stream_and_any_spine_give_what_the_oracle_says(
    tmp_path_factory: pytest.TempPathFactory, stream: Stream, seed: int, arrival: bool
):
    options = JoinOptions(knowledge="arrival" if arrival else "event")
    check(tmp_path_factory.mktemp("archive"), stream, PARAMS, seed, rows=15, options=options)


@pytest.mark.parametrize("knowledge", ["event", "arrival"])
@pytest.mark.parametrize("seed", range(3))
def test_windows_of_many_events_give_what_the_oracle_says(seed: int, knowledge: str, tmp_path: Path):
    # Some entities have thousands of events: blocks of blocks are merged.
    stream = random_stream(seed, 6_000, keys=3, step_us=200_000)
    check(tmp_path, stream, PARAMS, seed, rows=150, options=JoinOptions(knowledge=knowledge))  # type: ignore[arg-type]


def test_groups_of_entities_that_are_spilled_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "MEMORY_BYTES", 100_000)
    stream = random_stream(5, 2_000)
    check(tmp_path, stream, PARAMS, 5, rows=200, options=JoinOptions())


def test_what_was_known_at_an_instant(tmp_path: Path):
    stream = random_stream(6, 1_500, keys=10)
    known = stream[0][len(stream[0]) // 2].arrival_us
    check(tmp_path, stream, PARAMS, 6, rows=150, options=JoinOptions(known_by_us=known))

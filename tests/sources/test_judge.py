"""Every message gets one verdict; any cut into polls gives what one message at a time gives."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.sources.decode import Decoder
from featurestore.sources.judge import Judge
from featurestore.sources.messages import collect
from featurestore.sources.verdicts import VerdictJournal
from tests.sources.support import MINUTE, PAYMENT, SECOND, T0_MS, T0_US, message, payment, rows, source


class Judging:
    """A judge of partitions 0 to 2 with its journals in `folder`."""

    def __init__(self, folder: Path, spec: SourceSpec | None = None, resume: int = 0) -> None:
        self.spec = spec or source()
        self.journals = {p: VerdictJournal(folder, "g", p, resume, fsync=False) for p in range(3)}
        self.judge = Judge(self.spec, dict.fromkeys(range(3), NO_TIME), self.journals)
        self.decoder = Decoder(self.spec, Path())

    def poll(self, messages: Sequence[Message], wall_us: int = T0_US) -> dict[str, pl.DataFrame]:
        raw = collect(messages, dict.fromkeys(range(3), (0, None)))
        judged = self.judge.judge(raw, self.decoder.decode(raw.values), wall_us)
        assert [one.partition for one in judged] == [partition for partition, _, _ in raw.spans]
        for one, (partition, start, end) in zip(judged, raw.spans, strict=True):
            frames = (one.accepted, one.late, one.dead)
            together = sorted(offset for frame in frames for offset in frame["_offset"])
            assert together == raw.offsets[start:end].tolist()
            assert all(set(frame["_partition"]) <= {partition} for frame in frames)
        return {kind: pl.concat([getattr(one, kind) for one in judged]) for kind in ("accepted", "late", "dead")}

    def close(self) -> None:
        for journal in self.journals.values():
            journal.close()


@pytest.fixture
def judging(tmp_path: Path) -> Judging:
    return Judging(tmp_path)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=timezone.utc)


def test_frames_have_the_columns_of_the_seam(judging: Judging) -> None:
    got = judging.poll(
        [
            message(1, 7, payment(T0_MS), arrival_ms=T0_MS + 5),
            message(1, 8, payment(T0_MS - 65_001), arrival_ms=T0_MS + 6),
            message(1, 9, b"?", key=b"k", arrival_ms=T0_MS + 7),
        ]
    )
    schema = {column.name: pl.String() for column in PAYMENT[:2]} | {
        "amount": pl.Float64(),
        "ts": pl.Datetime("us", "UTC"),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "event_time": pl.Datetime("us", "UTC"),
        "arrival_time": pl.Datetime("us", "UTC"),
        "_partition_watermark": pl.Int64(),
    }
    assert got["accepted"].schema == pl.Schema(schema)
    assert got["accepted"].rows() == [
        ("c1", "m1", 1.5, at(T0_MS), 1, 7, at(T0_MS), at(T0_MS + 5), NO_TIME),
    ]
    late = {**schema, "watermark": pl.Datetime("us", "UTC"), "lateness": pl.Int64()}
    assert got["late"].schema == pl.Schema(late)
    watermark_us = T0_US - 5 * SECOND
    assert rows(got["late"], "_offset", "_partition_watermark", "watermark", "lateness") == [
        (8, watermark_us, at(T0_MS - 5_000), 60_001_000),
    ]
    assert got["dead"].schema == pl.Schema(
        {
            "_partition": pl.Int32(), "_offset": pl.Int64(), "key": pl.Binary(), "value": pl.Binary(),
            "arrival_time": pl.Datetime("us", "UTC"), "reason": pl.String(), "error": pl.String(),
        }
    )  # fmt: skip
    assert rows(got["dead"], "_partition", "_offset", "key", "value", "arrival_time", "reason") == [
        (1, 9, b"k", b"?", at(T0_MS + 7), "malformed"),
    ]


def test_frames_without_rows_have_the_same_schemas(judging: Judging) -> None:
    full = judging.poll([message(0, 0, payment()), message(0, 1, payment(T0_MS - 100_000)), message(0, 2, None)])
    bad = judging.poll([message(0, 3, None)])
    good = judging.poll([message(0, 4, payment())])
    for kind in ("accepted", "late", "dead"):
        assert bad[kind].schema == good[kind].schema == full[kind].schema


def test_partitions_that_come_mixed_are_told_apart(judging: Judging) -> None:
    mixed = [message(2, 5, payment(card="a")), message(0, 1, payment(card="b")), message(2, 6, None)]
    got = judging.poll([*mixed, message(0, 2, payment(card="c")), message(1, 9, b"")])
    assert rows(got["accepted"], "_partition", "_offset", "card_id") == [
        (0, 1, "b"),
        (0, 2, "c"),
        (2, 5, "a"),
    ]
    assert rows(got["dead"], "_partition", "_offset", "reason") == [(1, 9, "malformed"), (2, 6, "tombstone")]


def test_partitions_do_not_make_each_other_late(judging: Judging) -> None:
    got = judging.poll([message(0, 0, payment()), message(1, 0, payment(T0_MS - 3_600_000))])
    assert len(got["accepted"]) == 2


def test_a_dead_letter_does_not_move_the_watermark(judging: Judging) -> None:
    far = T0_MS + 61_000
    got = judging.poll([message(0, 0, payment(far)), message(0, 1, payment(T0_MS - 3_600_000))])
    assert rows(got["dead"], "reason") == ["event_time_in_future"]
    assert rows(got["accepted"], "_offset") == [1]
    assert judging.judge.max_event_time_us[0] == (T0_MS - 3_600_000) * 1_000


def test_the_limit_is_the_brokers_time_else_the_clock_at_reading(judging: Judging) -> None:
    ahead = payment(T0_MS + 60_001)
    by_broker = judging.poll([message(0, 0, ahead, arrival_ms=T0_MS)], wall_us=T0_US + MINUTE)
    assert rows(by_broker["dead"], "reason") == ["event_time_in_future"]
    by_clock = judging.poll([message(0, 1, ahead, arrival_ms=T0_MS, broker_time=False)], wall_us=T0_US + MINUTE)
    assert rows(by_clock["accepted"], "_offset") == [1]
    # What the producer says of the time is not believed.
    lying = judging.poll([message(0, 2, ahead, arrival_ms=T0_MS + 10**9, broker_time=False)], wall_us=T0_US)
    assert rows(lying["dead"], "reason") == ["event_time_in_future"]


@pytest.mark.parametrize(("then_us", "now_us"), [(T0_US, T0_US + MINUTE), (T0_US + MINUTE, T0_US)])
def test_a_replay_keeps_the_clocks_verdicts(tmp_path: Path, then_us: int, now_us: int) -> None:
    sent = [message(0, n, payment(T0_MS + ahead), broker_time=False) for n, ahead in enumerate([0, 61_000, 130_000])]
    first = Judging(tmp_path)
    before = first.poll(sent, then_us)
    first.close()
    again = Judging(tmp_path, resume=1)
    after = again.poll([*sent[1:], message(0, 3, payment(T0_MS + 61_000), broker_time=False)], now_us)
    again.close()
    assert rows(before["dead"], "_offset") == ([1, 2] if then_us == T0_US else [2])
    replayed = after["dead"].filter(pl.col("_offset") < 3)
    assert rows(replayed, "_offset") == rows(before["dead"], "_offset")
    # A new one is judged by the clock of now.
    assert (3 in rows(after["dead"], "_offset")) == (now_us == T0_US)


def test_a_null_event_time_has_its_own_reason(tmp_path: Path) -> None:
    columns = (*PAYMENT[:3], ColumnSpec(name="ts", dtype="Datetime", unit="ms", nullable=True))
    judging = Judging(tmp_path, source(columns=columns))
    without = json.dumps({"card_id": "c", "amount": 1, "ts": None}).encode()
    got = judging.poll([message(0, 0, without), message(0, 1, payment()), message(0, 2, without)])
    assert rows(got["dead"], "_offset", "reason") == [(0, "event_time_missing"), (2, "event_time_missing")]
    assert rows(got["accepted"], "_offset") == [1]


def test_an_absurd_arrival_is_held_within_the_years_that_a_datetime_has(judging: Judging) -> None:
    sent = [message(0, n, payment(), arrival_ms=ms) for n, ms in enumerate([2**63 - 1, -1, -(2**62)])]
    got = judging.poll([message(0, 3, payment()), *sent][1:])
    arrivals = sorted(
        rows(
            pl.concat([got["accepted"].select("arrival_time"), got["dead"].select("arrival_time")]),
            "arrival_time",
        )
    )
    assert arrivals[0] == datetime(1, 1, 1, tzinfo=timezone.utc)
    assert arrivals[-1].year == 9999


def test_offsets_outside_the_wanted_range_are_left_out() -> None:
    sent = [message(p, offset, b"%d%d" % (p, offset)) for offset in range(6) for p in (2, 0, 1)]
    raw = collect(sent, {0: (2, None), 1: (0, 3), 2: (6, 9)})
    assert raw.values == [b"02", b"03", b"04", b"05", b"10", b"11", b"12"]
    assert raw.spans == [(0, 0, 4), (1, 4, 7)]
    assert raw.reached == {0: 6, 1: 6, 2: 6}
    assert raw.sizes.tolist() == [2] * 7
    assert raw.offsets.tolist() == [2, 3, 4, 5, 0, 1, 2]


def test_sizes_count_the_bytes_of_values_and_a_null_has_none() -> None:
    raw = collect([message(0, 0, b"abc"), message(0, 1, None), message(0, 2, b"")], {0: (0, None)})
    assert raw.sizes.tolist() == [3, 0, 0]


@dataclass(frozen=True)
class Sent:
    """A message; ahead_ms: its event time, seen from T0, None for a value that is no event."""

    partition: int
    ahead_ms: int | None
    broker_time: bool


sent_messages = st.lists(
    st.builds(
        Sent,
        st.integers(0, 2),
        st.one_of(st.none(), st.integers(-80_000, 70_000), st.sampled_from([0, 60_000, 60_001, -65_000, -65_001])),
        st.booleans(),
    ),
    max_size=40,
)


def one_at_a_time(sent: Sequence[Sent]) -> list[tuple[str, int | None]]:
    """(verdict, partition watermark before) of each, by a loop."""
    newest: dict[int, int] = {}
    verdicts: list[tuple[str, int | None]] = []
    for one in sent:
        if one.ahead_ms is None:
            verdicts.append(("malformed", None))
        elif one.ahead_ms > 60_000:
            verdicts.append(("event_time_in_future", None))
        else:
            time_us = T0_US + one.ahead_ms * 1_000
            maximum = newest.get(one.partition)
            watermark = NO_TIME if maximum is None else maximum - 5 * SECOND
            late = maximum is not None and time_us < watermark - 60 * SECOND
            verdicts.append(("late" if late else "accepted", watermark))
            newest[one.partition] = time_us if maximum is None else max(maximum, time_us)
    return verdicts


@given(sent=sent_messages, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_any_cut_into_polls_gives_what_one_message_at_a_time_gives(sent: list[Sent], cuts: list[int]) -> None:
    messages = []
    for offset, one in enumerate(sent):
        value = b"?" if one.ahead_ms is None else payment(T0_MS + one.ahead_ms)
        messages.append(message(one.partition, offset, value, broker_time=one.broker_time))
    expected = {}
    for offset, (one, verdict) in enumerate(zip(sent, one_at_a_time(sent), strict=True)):
        expected[(one.partition, offset)] = verdict
    got: dict[tuple[int, int], tuple[str, int | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        judging = Judging(Path(folder))
        for low, high in pairwise([0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]):
            frames = judging.poll(messages[low:high]) if low < high else {}
            for kind in ("accepted", "late"):
                if frames:
                    for partition, offset, mark in rows(frames[kind], "_partition", "_offset", "_partition_watermark"):
                        got[(partition, offset)] = (kind, mark)
            if frames:
                for partition, offset, reason in rows(frames["dead"], "_partition", "_offset", "reason"):
                    got[(partition, offset)] = (reason, None)
        judging.close()
    assert got == expected

"""A watermark that was taken back: from there on shards hold and emit what the oracle says, and nothing twice."""

from __future__ import annotations

import random

import pytest

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.errors import StoreError
from featurestore.shard.processor import ShardProcessor
from featurestore.shard.protocol import Commit, Fence, ViewState
from featurestore.shard.watermark_reset import (
    ViewTimes,
    check_ahead,
    check_void,
    reach_us,
    reset_state,
    view_times,
)
from featurestore.worker.routing import Router
from tests import factories, oracle
from tests.oracle import Message, SourceParams
from tests.shard.history import GENERATION, MINUTE, Case, History
from tests.shard.test_histories import HOUR, cases
from tests.strategies import Stream

PARAMS = SourceParams("ts", ooo_us=5_000_000, lateness_us=HOUR // 6)
FIRST_US = 490_000 * HOUR


def wrong_stream(seed: int) -> tuple[Stream, dict[int, int]]:
    """Three partitions, and how much of each is read before the reset.

    The others fall idle after some events of the first half hour; then one of partition 0 lies hours ahead. What comes
    afterwards is of the hours between in the others, and around the wrong time in partition 0.
    """
    draw = random.Random(seed)
    early, jump_us = HOUR // 2, draw.randint(3, 12) * HOUR
    times: list[list[int]] = [[draw.randint(0, early) for _ in range(draw.randint(0, 12))] for _ in range(3)]
    times[0].append(jump_us)
    before = {partition: len(found) for partition, found in enumerate(times)}
    for partition in (1, 2):
        more = [draw.randint(early // 2, jump_us + HOUR) for _ in range(draw.randint(20, 50))]
        # Out of order by some minutes, as they come.
        times[partition] += sorted(more, key=lambda time: time + draw.randint(0, 8 * MINUTE))
    times[0] += [jump_us + draw.randint(-MINUTE, HOUR) for _ in range(8)]
    stream: Stream = []
    for partition, found in enumerate(times):
        stream.append([Message(partition, offset, _event(draw, time), 2**61) for offset, time in enumerate(found)])
    return stream, before


def _event(draw: random.Random, time_us: int) -> dict[str, object]:
    return {
        "card_id": f"c{draw.randint(0, 2)}",
        "merchant_id": f"m{draw.randint(0, 2)}",
        "amount": float(draw.randint(1, 50)),
        "quantity": draw.randint(1, 5),
        "online": draw.random() < 0.5,
        "status": "approved" if draw.random() < 0.9 else "declined",
        "ts": FIRST_US + time_us,
    }


class RunAhead(History):
    """A history whose first life reads only so much of each partition, the others idle or empty behind partition 0."""

    def read_before(self, before: dict[int, int], *, close_windows: bool) -> None:
        views = [case.bound for case in self.cases]
        partitions = range(len(self.stream))
        initial = {view.compiled.reference: {p: Fence(0) for p in partitions} for view in views}
        processors = [ShardProcessor(views, GENERATION, partitions, store, initial) for store in self.stores]
        router = Router(views, self.shards)
        for partition in sorted(partitions, reverse=True):
            self.silences = 1.0 if partition else 0.0
            for offset in range(before[partition] + 1):
                for shard, batch in router.route(self._poll(partition, offset, int(offset < before[partition]))):
                    processors[shard].receive(batch)
                    if self._random.random() < 0.3:
                        processors[shard].commit()
        for processor in processors:
            processor.commit(close_windows=close_windows)
        self.stores = [store.reopen() for store in self.stores]

    def states(self, view: CompiledView) -> list[ViewState]:
        return [state for store in self.stores if (state := store.read_state(view)) is not None]

    def newest_before(self, before: dict[int, int], instant_us: int) -> int:
        """Newest accepted event time below an instant, of what was read."""
        times = [
            message.event["ts"]
            for message, verdict in zip(self._messages, self._verdicts, strict=True)
            if message.event is not None and verdict.kind == "accepted" and message.offset < before[message.partition]
        ]
        return max((time for time in times if time < instant_us), default=NO_TIME)

    def reset(self, view: CompiledView, to_us: int) -> None:
        for store in self.stores:
            state = reset_state(store.read_state(view) or ViewState(), to_us)
            if state is not None:
                store.write(Commit(states=[(view, state)]))

    def compare_after(self, case: Case, to_us: int) -> int:
        """Hold the rows of windows that end after an instant against the oracle's; how many there are.

        Up to the watermark: what was closed beyond it in the first life is there as well.
        """
        compared, watermark_us = 0, view_times(case.bound.compiled, self.states(case.bound.compiled)).watermark_us
        expected = oracle.snapshots(case.view, self._messages, self._verdicts, self.params, close_windows=False)
        emitted = self._emitted(case)
        for dataset in case.bound.compiled.datasets:
            told = {key: row for key, row in expected.get(dataset.name, {}).items() if to_us < key[1] <= watermark_us}
            got = {
                key: row
                for key, row in emitted.get(dataset.name, {}).items()
                if to_us < key[1] <= watermark_us  # type: ignore[index]
            }
            oracle.assert_same_rows(told, got)
            compared += len(told)
        return compared


def ran_ahead(seed: int, *, close_windows: bool = False) -> tuple[RunAhead, dict[int, int], Case]:
    """A history before its reset, and the one view that it has."""
    stream, before = wrong_stream(seed)
    one = cases(PARAMS)[seed % 3]
    history = RunAhead([one], stream, PARAMS, 1 + seed % 2, seed, most=5)
    history.read_before(before, close_windows=close_windows)
    return history, before, one


@pytest.mark.parametrize("close_windows", [False, True])
def test_windows_after_a_reset_are_those_of_the_oracle(close_windows):
    compared = resets = 0
    for seed in range(45):
        history, before, one = ran_ahead(seed, close_windows=close_windows)
        compiled = one.bound.compiled
        times = view_times(compiled, history.states(compiled))
        assert times.watermark_us == times.partitions[0] - PARAMS.ooo_us
        newest_us = history.newest_before(before, times.watermark_us)
        to_us = max(newest_us + reach_us(compiled) + 1, times.least_us) if newest_us != NO_TIME else times.least_us
        if to_us >= times.watermark_us:
            continue
        check_ahead(compiled, times, to_us)
        check_void(compiled, times, to_us, newest_us)
        history.reset(compiled, to_us)
        compared += history.run().compare_after(one, to_us)
        resets += 1
    assert resets > 20
    assert compared > 500


def test_what_is_refused_would_make_wrong_rows():
    # The same reset to before the newest right event: emitted windows come again, from tiles that were rolled up.
    wrong = 0
    for seed in range(30):
        history, before, one = ran_ahead(seed)
        compiled = one.bound.compiled
        times = view_times(compiled, history.states(compiled))
        newest_us = history.newest_before(before, times.watermark_us)
        to_us = newest_us - 5 * MINUTE
        if newest_us == NO_TIME or to_us < times.least_us:
            continue
        with pytest.raises(StoreError, match="can't be opened again"):
            check_void(compiled, times, to_us, newest_us)
        history.reset(compiled, to_us)
        try:
            history.run().compare_after(one, to_us)
        except AssertionError:
            wrong += 1
    assert wrong > 5


COMPILED = factories.compiled(
    [factories.feature("count", factories.tumbling(10), None)], out_of_orderness_us=MINUTE, lateness_us=MINUTE
)


def test_the_reach_of_a_tumbling_window_is_it_and_its_hop():
    assert reach_us(COMPILED) == 20 * MINUTE


def test_times_are_of_the_newest_generation_and_the_furthest_shard():
    old = {"old/0": Fence(9, 90 * HOUR)}
    states = [
        ViewState({**old, "new/0": Fence(3, 30 * HOUR), "new/1": Fence(2, 20 * HOUR), "new/2": Fence(0)}, 29 * HOUR),
        ViewState({**old, "new/0": Fence(3, 30 * HOUR), "new/1": Fence(1, 10 * HOUR), "new/2": Fence(0)}, 25 * HOUR),
    ]
    times = view_times(COMPILED, states)
    assert times.partitions == {0: 30 * HOUR, 1: 20 * HOUR, 2: NO_TIME}
    assert (times.watermark_us, times.least_us, times.slowest) == (29 * HOUR, 20 * HOUR - MINUTE, 1)
    empty = view_times(COMPILED, [])
    assert (empty.watermark_us, empty.least_us, empty.partitions, empty.slowest) == (NO_TIME, NO_TIME, {}, None)


@pytest.mark.parametrize(
    ("to_us", "newest_us", "told"),
    [
        (30 * HOUR, NO_TIME, "it is at 1970-01-02T06:00:00Z"),
        (10 * HOUR - 1, NO_TIME, "would be there again"),
        (15 * HOUR, 15 * HOUR - 20 * MINUTE, "1970-01-01T15:00:01Z at the earliest"),
        (15 * HOUR, 29 * HOUR + 50 * MINUTE, "featurestore view reset activity"),
    ],
)
def test_a_refusal_names_the_earliest_instant_or_another_way(to_us, newest_us, told):
    times = ViewTimes(30 * HOUR, 29 * HOUR, {0: 31 * HOUR, 1: 10 * HOUR}, 10 * HOUR)

    def check() -> None:
        check_ahead(COMPILED, times, to_us)
        check_void(COMPILED, times, to_us, newest_us)

    with pytest.raises(StoreError) as refused:
        check()
    assert told in f"{refused.value.message} {refused.value.hint}"


def test_a_reset_keeps_fences_counts_and_what_was_final():
    state = ViewState({"g/0": Fence(5, 9)}, 100, {"sliding": 500}, line_us=80)
    assert reset_state(state, 90) == ViewState({"g/0": Fence(5, 9)}, 90, {"sliding": 500}, line_us=80)
    lower = reset_state(state, 70)
    assert lower is not None
    assert (lower.watermark_us, lower.line_us) == (70, 70)
    assert reset_state(state, 100) is None
    assert reset_state(ViewState(), 100) is None

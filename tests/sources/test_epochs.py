"""Messages are judged by the definition that held at their offset, however they are cut into polls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from featurestore.batches import NO_TIME
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.sources.epochs import EarlierSource, SourceVerdicts, same_verdicts
from featurestore.sources.messages import collect
from featurestore.sources.verdicts import VerdictJournal
from tests.sources.support import MINUTE, SECOND, T0_MS, T0_US, message, payment, source

PARTITIONS = 2
Verdict = tuple[int, int, str]


def lenient(minutes: int) -> SourceSpec:
    return msgspec.structs.replace(source(), allowed_lateness_us=minutes * MINUTE)


@contextmanager
def made(folder: Path | str, spec: SourceSpec, earlier: list[EarlierSource]) -> Iterator[SourceVerdicts]:
    journals = {p: VerdictJournal(Path(folder), "g", p, 0, fsync=False) for p in range(PARTITIONS)}
    newest = dict.fromkeys(range(PARTITIONS), NO_TIME)
    yield SourceVerdicts(spec, earlier, newest, journals, None, base_dir=Path(), registry=None)
    for journal in journals.values():
        journal.close()


def run(verdicts: SourceVerdicts, polls: list[list[Message]]) -> tuple[list[Verdict], list[pl.DataFrame]]:
    """As the reader does it: what is of another definition waits for the next turn."""
    found: list[Verdict] = []
    accepted = []
    reached = dict.fromkeys(range(PARTITIONS), 0)
    for poll in polls:
        rest = poll
        while rest:
            part, rest = verdicts.first_part(rest)
            raw = collect(part, dict.fromkeys(range(PARTITIONS), (0, None)))
            for one in verdicts.judge(raw, T0_US):
                for kind in ("accepted", "late", "dead"):
                    frame = getattr(one, kind)
                    found += [(one.partition, offset, kind) for offset in frame["_offset"]]
                accepted.append(one.accepted)
            reached |= raw.reached
            verdicts.forget_passed(reached.__getitem__)
    return sorted(found), accepted


def naive(messages: list[Message], specs: list[SourceSpec], cuts: list[dict[int, int]]) -> list[Verdict]:
    """One message at a time, with the newest event time by hand."""
    newest: dict[int, int] = {}
    found = []
    for one in sorted(messages, key=lambda m: (m.partition(), m.offset())):
        partition, offset = int(one.partition() or 0), int(one.offset() or 0)
        place = sum(offset >= cut.get(partition, 0) for cut in cuts)
        event_us = msgspec.json.decode(one.value() or b"")["ts"] * 1_000
        spec = specs[place]
        before = newest.get(partition)
        late = before is not None and before - spec.max_out_of_orderness_us - event_us > spec.allowed_lateness_us
        newest[partition] = max(event_us, before or event_us)
        found.append((partition, offset, "late" if late else "accepted"))
    return sorted(found)


@given(st.data())
def test_any_cut_into_polls_gives_what_one_message_at_a_time_gives(data: st.DataObject) -> None:
    ends = [data.draw(st.integers(0, 12)) for _ in range(PARTITIONS)]
    back = st.integers(0, 30 * 60)
    messages = [
        [message(p, n, payment(T0_MS - data.draw(back) * 1_000), arrival_ms=T0_MS) for n in range(end)]
        for p, end in enumerate(ends)
    ]
    minutes = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    cuts: list[dict[int, int]] = []
    for _ in minutes[1:]:
        low = cuts[-1] if cuts else {}
        cuts.append({p: data.draw(st.integers(low.get(p, 0), 14)) for p in range(PARTITIONS)})
    specs = [lenient(one) for one in minutes]
    earlier = [EarlierSource(spec, cut) for spec, cut in zip(specs, cuts, strict=False)]
    waiting = [list(own) for own in messages]
    polls = []
    while any(waiting):
        polls.append([])
        for own in waiting:
            many = data.draw(st.integers(0, len(own)))
            polls[-1] += own[:many]
            del own[:many]
    with tempfile.TemporaryDirectory() as folder, made(folder, specs[-1], earlier) as verdicts:
        found, _ = run(verdicts, polls)
    assert found == naive([one for own in messages for one in own], specs, cuts)


def test_events_of_before_have_the_columns_that_the_source_has_now(tmp_path: Path) -> None:
    then = source()
    amount = next(column for column in then.columns if column.name == "amount")
    others = tuple(column for column in then.columns if column.name != "amount")
    country = ColumnSpec(name="country", dtype="String", has_default=True, default="DE")
    now = msgspec.structs.replace(then, columns=(*others, country))
    with made(tmp_path, now, [EarlierSource(then, {0: 2})]) as verdicts:
        _, accepted = run(verdicts, [[message(0, n, payment(T0_MS), arrival_ms=T0_MS) for n in range(4)]])
    assert len(accepted) == 2
    assert accepted[0].schema == accepted[1].schema
    together = pl.concat(accepted)
    assert amount.name not in together.columns
    assert together["country"].to_list() == ["DE"] * 4
    assert together["_offset"].to_list() == [0, 1, 2, 3]


CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({"owner": "risk", "description": "x", "tags": {"a": "b"}, "schema": "elsewhere.avsc"}, True),
    ({"idle_timeout_us": 5 * SECOND}, True),
    ({"allowed_lateness_us": 7}, False),
    ({"max_out_of_orderness_us": 7}, False),
    ({"max_future_us": 7}, False),
    ({"format": "avro"}, False),
    ({"columns": ()}, False),
    ({"dedupe_by": "card_id"}, False),
]


@pytest.mark.parametrize(("changes", "same"), CHANGES)
def test_what_decides_about_a_message(changes: dict[str, Any], same: bool) -> None:
    assert same_verdicts(source(), msgspec.structs.replace(source(), **changes)) is same

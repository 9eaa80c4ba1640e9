"""The test streams: the same for the same seed, and with everything in them that they promise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import Feature, View, judge, source_counts, tumbling, view_counts
from tests.oracle.model import MINUTE
from tests.strategies import PARAMS, Stream, cuts, in_sequence, polls_of, random_cuts, random_stream, streams


@given(data=st.data(), stream=streams(gaps=True))
def test_verdicts_do_not_depend_on_the_interleaving(data: st.DataObject, stream: Stream) -> None:
    plain = in_sequence(stream)
    mixed = [message for poll in polls_of(stream, data.draw(cuts(stream))) for message in poll]
    assert sorted(mixed, key=lambda m: (m.partition, m.offset)) == plain
    place = {(m.partition, m.offset): verdict for m, verdict in zip(mixed, judge(mixed, PARAMS), strict=True)}
    verdicts = judge(plain, PARAMS)
    assert [place[m.partition, m.offset] for m in plain] == verdicts
    counts = source_counts(verdicts)
    assert counts.read == counts.accepted + counts.too_late + counts.dead


def test_a_random_stream_has_everything_and_is_the_same_for_its_seed() -> None:
    stream = random_stream(7, 2000, 4, empty_partitions=[2])
    assert stream == random_stream(7, 2000, 4, empty_partitions=[2])
    assert stream != random_stream(8, 2000, 4, empty_partitions=[2])
    assert [bool(partition) for partition in stream] == [True, True, False, True]
    assert sum(count for _, count in random_cuts(7, stream)) == 2000
    messages = in_sequence(stream)
    verdicts = judge(messages, PARAMS)
    counts = source_counts(verdicts)
    assert counts.accepted > 1500
    assert min(counts.late_accepted, counts.too_late, counts.dead) > 20
    view = View(
        ("card_id",),
        (Feature("n", "count", None, tumbling(MINUTE)),),
        where=lambda e: None if e["status"] is None else e["status"] == "approved",
    )
    viewed = view_counts(view, messages, verdicts)
    assert viewed.applied + viewed.filtered + viewed.null_key == counts.accepted
    assert min(viewed.applied, viewed.filtered, viewed.null_key) > 20

"""Message by message: accepted, too late or dead letter; then filtered, null key or applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.oracle.model import Event, Message, SourceParams, Verdict, View

Key = tuple[Any, ...]


@dataclass(frozen=True)
class SourceCounts:
    """read = accepted + too_late + dead + duplicates; late_accepted are some of the accepted."""

    read: int
    accepted: int
    late_accepted: int
    too_late: int
    dead: int
    duplicates: int = 0


@dataclass(frozen=True)
class ViewCounts:
    """accepted = applied + filtered + null_key."""

    applied: int
    filtered: int
    null_key: int


@dataclass(frozen=True)
class Applied:
    """An event that counts for its entity, with the derived columns."""

    event_time: int
    partition: int
    offset: int
    watermark_before: int | None
    arrival_us: int
    event: Event


def judge(messages: Sequence[Message], params: SourceParams) -> list[Verdict]:
    """The verdict of each message, in the order given; the partitions may be interleaved in any way."""
    newest: dict[int, int] = {}
    accepted: dict[int, list[tuple[Any, int]]] = {}
    next_offset: dict[int, int] = {}
    verdicts = []
    for message in messages:
        assert message.offset >= next_offset.get(message.partition, 0), "a partition is read in offset order"
        next_offset[message.partition] = message.offset + 1
        maximum = newest.get(message.partition)
        watermark = None if maximum is None else maximum - params.ooo_us
        time = None if message.event is None else message.event.get(params.event_time_field)
        reason = _dead_reason(message, time, params)
        if reason is not None or time is None:
            verdicts.append(Verdict("dead", watermark, reason=reason))
            continue
        identity = None if message.event is None or params.dedupe_by is None else message.event.get(params.dedupe_by)
        before = accepted.setdefault(message.partition, [])
        if identity is not None and any(i == identity and maximum - t <= params.dedupe_us for i, t in before):
            verdicts.append(Verdict("duplicate", watermark))
            continue
        behind = 0 if watermark is None else max(0, watermark - time)
        kind = "late" if behind > params.lateness_us else "accepted"
        verdicts.append(Verdict(kind, watermark, behind))
        if kind == "accepted":
            before.append((identity, time))
        newest[message.partition] = time if maximum is None else max(maximum, time)
    return verdicts


def _dead_reason(message: Message, time: int | None, params: SourceParams) -> str | None:
    if message.event is None:
        return message.reason or "malformed"
    if time is None:
        return "event_time_missing"
    assert type(time) is int, f"an event time is a number of µs, not {time!r}"
    return "event_time_in_future" if time > message.arrival_us + params.max_future_us else None


def dead_letters(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many dead letters there are of each reason."""
    reasons = [verdict.reason for verdict in verdicts if verdict.reason is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def source_counts(verdicts: Sequence[Verdict]) -> SourceCounts:
    """The counters of a source."""
    kinds = [verdict.kind for verdict in verdicts]
    late_accepted = sum(1 for v in verdicts if v.kind == "accepted" and v.lateness_us > 0)
    return SourceCounts(
        read=len(kinds),
        accepted=kinds.count("accepted"),
        late_accepted=late_accepted,
        too_late=kinds.count("late"),
        dead=kinds.count("dead"),
        duplicates=kinds.count("duplicate"),
    )


def view_counts(view: View, messages: Sequence[Message], verdicts: Sequence[Verdict]) -> ViewCounts:
    """The counters of a view that saw the source from its start."""
    applied = filtered = null_key = 0
    for message, verdict in zip(messages, verdicts, strict=True):
        if verdict.kind != "accepted" or message.event is None:
            continue
        if not _kept(view, message.event):
            filtered += 1
        elif _key(view, message.event) is None:
            null_key += 1
        else:
            applied += 1
    return ViewCounts(applied, filtered, null_key)


def applied_events(
    view: View, messages: Sequence[Message], verdicts: Sequence[Verdict], params: SourceParams
) -> dict[Key, list[Applied]]:
    """Each entity's applied events, by event time; ties by partition, then offset."""
    entities: dict[Key, list[Applied]] = {}
    for message, verdict in zip(messages, verdicts, strict=True):
        if verdict.kind != "accepted" or message.event is None or not _kept(view, message.event):
            continue
        key = _key(view, message.event)
        if key is None:
            continue
        derived = {name: expression(message.event) for name, expression in view.derive.items()}
        entities.setdefault(key, []).append(
            Applied(
                message.event[params.event_time_field],
                message.partition,
                message.offset,
                verdict.watermark_before,
                message.arrival_us,
                {**message.event, **derived},
            )
        )
    for events in entities.values():
        events.sort(key=lambda e: (e.event_time, e.partition, e.offset))
    return entities


def _kept(view: View, event: Event) -> bool:
    return view.where is None or view.where(event) is True


def _key(view: View, event: Event) -> Key | None:
    key = tuple(event.get(name) for name in view.join_keys)
    return None if any(part is None for part in key) else key

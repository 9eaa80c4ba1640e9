"""Read a source: consume, decode, judge; what comes out has its verdicts.

Offsets are assigned, never subscribed: the shards' fences say where to read on. The group's offset is written for
tools that show lag, and never read.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress, PartitionState, SourcePoll
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import OffsetGapError, SourceError
from featurestore.sources.client import client_settings, make_client
from featurestore.sources.decode import Decoder
from featurestore.sources.judge import Judge, RawMessages
from featurestore.sources.verdicts import VerdictJournal

log = structlog.get_logger()

MAX_MESSAGES = 20_000
QUEUED_KBYTES = 32 * 1024


@dataclass(frozen=True)
class ResumePoint:
    """Where a partition is read on: the next offset, and the largest event time before it (NO_TIME if none)."""

    next_offset: int
    max_event_time_us: int = NO_TIME


@dataclass
class _Partition:
    number: int
    judge: Judge
    next_offset: int
    stop_at: int | None
    state: PartitionState = "active"
    at_end: bool = False
    last_message_at: float = 0.0
    told: PartitionProgress | None = field(default=None)

    @property
    def finished(self) -> bool:
        return self.stop_at is not None and self.next_offset >= self.stop_at


class SourceReader:
    """Reads some partitions of a source's topic.

    partitions: where each is read on. generation: of the topic. stop_at: recorded ends of a bounded run, else None.
    verdict_dir: where verdicts in which a clock spoke are remembered. base_dir: of relative schema paths.
    clock, monotonic: ns since the epoch, seconds.
    """

    def __init__(
        self,
        spec: SourceSpec,
        bootstrap_servers: str,
        group_id: str,
        partitions: Mapping[int, ResumePoint],
        generation: str,
        stop_at: Mapping[int, int] | None,
        verdict_dir: Path,
        settings: Mapping[str, str],
        *,
        base_dir: Path = Path(),
        max_messages: int = MAX_MESSAGES,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._max_messages = max_messages
        self._clock = clock
        self._monotonic = monotonic
        self._decoder = Decoder(spec, base_dir)
        self._journals: list[VerdictJournal] = []
        self._partitions: dict[int, _Partition] = {}
        self._silent_until = 0.0
        for number, point in partitions.items():
            journal = VerdictJournal(verdict_dir, generation, number, point.next_offset)
            self._journals.append(journal)
            judge = Judge(spec, number, point.max_event_time_us, journal)
            stop = None if stop_at is None else stop_at[number]
            self._partitions[number] = _Partition(number, judge, point.next_offset, stop, last_message_at=monotonic())
        self._consumer = make_client(Consumer, _consumer_settings(bootstrap_servers, group_id, settings))
        self._consumer.assign(
            [TopicPartition(spec.topic, p.number, p.next_offset) for p in self._partitions.values() if not p.finished]
        )

    @property
    def finished(self) -> bool:
        """Whether a bounded run has come to all its recorded ends, and has told so."""
        return all(p.finished and p.told is not None and p.told.state in ("ended", "empty") for p in self._partitions.values())

    def poll(self, timeout_s: float) -> SourcePoll | None:
        """Read what is there, waiting at most `timeout_s` for it; None when nothing came and no state changed.

        Raises OffsetGapError when an offset that is needed can't be read any more.
        """
        # The collector would walk the tens of thousands of short-lived objects of a poll again and again.
        gc.disable()
        try:
            return self._poll(timeout_s)
        finally:
            gc.enable()

    def _poll(self, timeout_s: float) -> SourcePoll | None:
        messages = self._consumer.consume(self._max_messages, timeout_s)
        now = self._monotonic()
        batches: list[PartitionBatch] = []
        ends: dict[int, int] = {}
        if messages:
            messages, ends = self._without_events(messages)
        if messages:
            batches = self._judge(messages, now)
        self._note_ends(ends)
        progress = [batch.progress for batch in batches]
        covered = {batch.partition for batch in batches}
        for partition in self._partitions.values():
            if partition.number not in covered:
                told = self._tell(partition, partition.next_offset, now)
                if told is not None:
                    progress.append(told)
        if not progress:
            return None
        return SourcePoll(tuple(batches), tuple(progress))

    def lag(self) -> dict[int, int]:
        """Messages between what was read and each partition's end, as far as the client knows without asking."""
        lag = {}
        for number, partition in self._partitions.items():
            try:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(self._spec.topic, number), cached=True)
            except KafkaException:
                continue
            lag[number] = max(0, high - partition.next_offset)
        return lag

    def commit_for_tools(self, offsets: Mapping[int, int]) -> None:
        """Write the group's offsets, for tools that show lag; nothing here ever reads them. Failures are logged only."""
        try:
            self._consumer.commit(
                offsets=[TopicPartition(self._spec.topic, number, offset) for number, offset in offsets.items()],
                asynchronous=True,
            )
        except KafkaException as error:
            log.debug("group_commit_failed", source=self._spec.name, error=error.args[0].str())

    def close(self) -> None:
        """Leave the broker and close the journals."""
        self._consumer.close()
        for journal in self._journals:
            journal.close()

    def _without_events(self, messages: Sequence[Message]) -> tuple[list[Message], dict[int, int]]:
        """The messages without librdkafka's events, and the offsets at which it met a partition's end."""
        errors = list(map(Message.error, messages))
        if not any(errors):
            return list(messages), {}
        ends: dict[int, int] = {}
        for message, error in zip(messages, errors, strict=True):
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition()] = message.offset()
            elif error is not None:
                self._handle(message, error)
        return [message for message, error in zip(messages, errors, strict=True) if error is None], ends

    def _note_ends(self, ends: Mapping[int, int]) -> None:
        for number, offset in ends.items():
            partition = self._partitions[number]
            if partition.stop_at is not None:
                # What came after the recorded end was dropped unread: it belongs to the next run.
                offset = min(offset, partition.stop_at)
            if offset >= partition.next_offset:
                # The end lies past markers of transactions and gaps of compaction.
                partition.next_offset = offset
                partition.at_end = True

    def _handle(self, message: Message, error: KafkaError) -> None:
        place = f"topic '{self._spec.topic}' partition {message.partition()}"
        if error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            raise OffsetGapError(
                f"{place}: the offset to read on from is gone: {error.str()}",
                hint="lengthen the topic's retention; to begin again without them, use a new data_dir",
            )
        if error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise SourceError(f"{place}: {error.str()}", hint="give the worker's user the right to read the topic")
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            raise SourceError(f"{place} is gone: {error.str()}", hint="was the topic deleted? start again once it exists")
        now = self._monotonic()
        if now >= self._silent_until:
            # librdkafka goes on trying by itself; the log need not hear of each time.
            self._silent_until = now + 5.0
            log.warning("kafka_read_error", source=self._spec.name, error=error.str(), code=error.name())

    def _judge(self, messages: Sequence[Message], now: float) -> list[PartitionBatch]:
        raw = RawMessages.of(messages)
        decoded = self._decoder.decode(raw.values)
        wall_us = self._clock() // 1_000
        batches = []
        for number, rows in raw.by_partition():
            partition = self._partitions[number]
            if partition.stop_at is not None:
                rows = rows[raw.offsets[rows] < partition.stop_at]
            rows = rows[raw.offsets[rows] >= partition.next_offset]
            if not len(rows):
                if partition.stop_at is not None and partition.next_offset < partition.stop_at:
                    partition.next_offset = partition.stop_at
                continue
            first = partition.next_offset
            partition.next_offset = int(raw.offsets[rows[-1]]) + 1
            partition.at_end = False
            partition.last_message_at = now
            judged = partition.judge.judge(raw, decoded, rows, wall_us, partition.next_offset)
            progress = self._tell(partition, first, now)
            assert progress is not None, "offsets moved"
            batches.append(
                PartitionBatch(
                    progress, raw.offsets[rows], raw.arrival_us[rows], raw.sizes[rows], judged.accepted, judged.late, judged.dead
                )
            )
        return batches

    def _tell(self, partition: _Partition, first_offset: int, now: float) -> PartitionProgress | None:
        """The partition's progress, None when it is what was told last."""
        newest = partition.judge.max_event_time_us
        state: PartitionState = "active"
        if partition.finished:
            state = "empty" if newest == NO_TIME else "ended"
            if partition.told is None or partition.told.state != state:
                self._stop_reading(partition)
        elif partition.at_end and partition.stop_at is None:
            idle = now - partition.last_message_at >= self._spec.idle_timeout_us / 1e6
            state = "empty" if newest == NO_TIME else "idle" if idle else "active"
        last = partition.told
        if last is not None and (last.next_offset, last.state) == (partition.next_offset, state):
            return None
        first = min(first_offset, last.next_offset) if last is not None else first_offset
        partition.told = PartitionProgress(partition.number, first, partition.next_offset, newest, state)
        return partition.told

    def _stop_reading(self, partition: _Partition) -> None:
        try:
            self._consumer.incremental_unassign([TopicPartition(self._spec.topic, partition.number)])
        except KafkaException:
            return  # it had nothing to read from the start, and was never assigned


def _consumer_settings(bootstrap_servers: str, group_id: str, settings: Mapping[str, str]) -> dict[str, object]:
    return {
        "group.id": group_id,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        # librdkafka's default of 1000 ms reads a filled topic seven times slower at the same CPU.
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": QUEUED_KBYTES,
        **client_settings(bootstrap_servers, settings),
    }



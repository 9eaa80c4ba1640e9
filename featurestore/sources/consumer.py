"""Read a source: consume, decode, judge; what comes out has its verdicts.

Offsets are assigned, never subscribed: the shards' fences say where to read on. The group's offset is
written for tools that show lag, and never read.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress, PartitionState, SourcePoll
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import (
    OffsetGapError,
    SchemaRegistryUnavailableError,
    SourceError,
    TopicNotFoundError,
)
from featurestore.sources.client import consumer_settings, kafka_error, log_commit, make_client
from featurestore.sources.duplicates import SeenIds
from featurestore.sources.epochs import EarlierSource, SourceVerdicts
from featurestore.sources.messages import collect
from featurestore.sources.schema_registry import SchemaRegistry
from featurestore.sources.topics import GAP_HINT, describe_topic, made_again, refuse_made_again
from featurestore.sources.verdicts import VerdictJournal

log = structlog.get_logger()

MAX_MESSAGES = 20_000
ASK_TIMEOUT_S = 0.5
ASK_AGAIN_S = 1.0
REPEAT_WARNING_S = 5.0
GONE_AFTER_S = 10.0

_GONE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
_DENIED = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
_NO_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}

LEAVE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class ResumePoint:
    """Where a partition is read on. max_event_time_us: the largest before `next_offset`, NO_TIME if none.

    read_from: the offset to ask for, where those before it are gone and are to be left out; None: `next_offset`.
    """

    next_offset: int
    max_event_time_us: int = NO_TIME
    read_from: int | None = None


@dataclass
class _Partition:
    number: int
    next_offset: int
    stop_at: int | None
    last_message_at: float
    at_end: bool = False
    told: PartitionProgress | None = None

    @property
    def finished(self) -> bool:
        return self.stop_at is not None and self.next_offset >= self.stop_at


def _no_ids(partition: int, point: ResumePoint) -> pl.DataFrame | None:
    return None


class SourceReader:
    """Reads some partitions of a source's topic.

    partitions: where each is read on. generation: of the topic. stop_at: recorded ends of a bounded run,
    else None. verdict_dir: where verdicts in which a clock spoke are remembered. settings: librdkafka's, of
    the user. earlier: definitions of the source that decide about messages before some offset. registry: of the schemas
    that Avro values were written with. base_dir: of relative schema paths. archived_ids: of a source with `dedupe_by`,
    the ids before a partition's resume point that still matter (see `SeenIds`). max_messages: the most that one poll
    gives. clock, monotonic: ns since the epoch, seconds.

    Called by one thread. After an error that `poll` raised only `close` may be called: messages of that
    poll are lost to this reader, and another one must resume from what was stored.
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
        earlier: Sequence[EarlierSource] = (),
        registry: SchemaRegistry | None = None,
        base_dir: Path = Path(),
        archived_ids: Callable[[int, ResumePoint], pl.DataFrame | None] = _no_ids,
        max_messages: int = MAX_MESSAGES,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._servers = bootstrap_servers
        self._max_messages = max_messages
        self._clock = clock
        self._monotonic = monotonic
        self._generation = generation
        self._settings = settings
        self._silent_until = self._ask_from = monotonic()
        self._doubt_since: float | None = None
        # Messages that wait for a schema or for their turn, and ends of partitions behind them.
        self._held: tuple[Sequence[Message], dict[int, int]] | None = None
        self._ask_registry_from = monotonic()
        self._partitions = {
            number: _Partition(number, point.next_offset, None if stop_at is None else stop_at[number], monotonic())
            for number, point in partitions.items()
        }
        own = consumer_settings(bootstrap_servers, group_id, settings)
        self._consumer = make_client(Consumer, {**own, "error_cb": self._on_error})
        self._journals = {
            number: VerdictJournal(verdict_dir, generation, number, point.next_offset)
            for number, point in partitions.items()
        }
        newest = {number: point.max_event_time_us for number, point in partitions.items()}
        seen = None
        if spec.dedupe_by is not None:
            seen = {number: SeenIds(spec, archived_ids(number, point)) for number, point in partitions.items()}
        self._verdicts = SourceVerdicts(
            spec, earlier, newest, self._journals, seen, base_dir=base_dir, registry=registry
        )
        self._reading = {p.number for p in self._partitions.values() if not p.finished}
        self._consumer.assign(
            [self._place(p, partitions[p].read_from or self._partitions[p].next_offset) for p in self._reading]
        )

    @property
    def finished(self) -> bool:
        """Whether a bounded run has come to all its recorded ends, and has told so."""
        return all(p.finished and p.told is not None for p in self._partitions.values())

    def poll(self, timeout_s: float) -> SourcePoll | None:
        """Read what is there, waiting at most `timeout_s`; None when nothing came and no state changed.

        librdkafka waits the whole time when fewer than `max_messages` are there: freshness wants it short.
        Raises OffsetGapError when an offset that is needed can't be read any more, SourceError when the
        topic is gone or may not be read, StoreFullError when verdicts can't be written. A broker or schema
        registry that does not answer is logged and waited for.
        """
        # The collector would walk the tens of thousands of short-lived objects of a poll again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._poll(timeout_s)
        finally:
            if collecting:
                gc.enable()

    def lag(self) -> dict[int, int]:
        """Messages between what was read and each partition's end, as far as known without asking the broker.

        A partition of which nothing is known yet, or that is not read any more, is left out.
        """
        lag = {}
        for number, partition in self._partitions.items():
            try:
                known = self._consumer.get_watermark_offsets(self._place(number), cached=True)
            except KafkaException:
                continue
            if known is not None and known[1] >= 0:
                lag[number] = max(0, known[1] - partition.next_offset)
        return lag

    def commit_for_tools(self, offsets: Mapping[int, int]) -> None:
        """Write the group's offsets, for tools that show lag; nothing here ever reads them.

        Does not wait; a failure is logged and nothing more.
        """
        places = [self._place(number, offset) for number, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            log_commit(error.args[0], places)

    def close(self) -> None:
        """Leave the broker and close the journals. Waits for a broker that does not answer for some seconds only."""
        # librdkafka waits for the answer to the last group commit, without end while there is no broker.
        leaving = threading.Thread(target=self._consumer.close, name="leave-broker", daemon=True)
        leaving.start()
        leaving.join(LEAVE_TIMEOUT_S)
        if leaving.is_alive():
            log.warning("broker_left_without_answer", source=self._spec.name)
        for journal in self._journals.values():
            journal.close()

    def _poll(self, timeout_s: float) -> SourcePoll | None:
        if self._held is not None and self._monotonic() < self._ask_registry_from:
            time.sleep(timeout_s)
            return None
        messages, ends = self._held or self._consume(timeout_s)
        now = self._monotonic()
        try:
            part, rest = self._verdicts.first_part(messages)
            batches = self._take(part, {} if rest else ends, now)
        except SchemaRegistryUnavailableError as error:
            self._held, self._ask_registry_from = (messages, ends), now + ASK_AGAIN_S
            if self._may_warn():
                log.warning("schema_registry_error", source=self._spec.name, error=error.message, hint=error.hint)
            return None
        self._held = (rest, ends) if rest else None
        self._verdicts.forget_passed(lambda number: self._partitions[number].next_offset)
        progress = [batch.progress for batch in batches]
        covered = {batch.partition for batch in batches}
        for partition in self._partitions.values():
            if partition.number not in covered:
                told = self._tell(partition, partition.next_offset, now)
                if told is not None:
                    progress.append(told)
        return SourcePoll(tuple(batches), tuple(progress)) if progress else None

    def _consume(self, timeout_s: float) -> tuple[Sequence[Message], dict[int, int]]:
        """What came: messages without errors, and the offsets at which partitions end."""
        try:
            messages: Sequence[Message] = self._consumer.consume(self._max_messages, timeout_s)
        except KafkaException as error:
            raise kafka_error(error, self._servers, f"reading topic '{self._spec.topic}'") from error
        now = self._monotonic()
        if self._doubt_since is not None:
            self._verify_topic(self._doubt_since, now, at_once=bool(messages))
        errors = list(map(Message.error, messages))
        if not any(errors):
            return messages, {}
        ends = self._heed(messages, errors, now)
        return [message for message, error in zip(messages, errors, strict=True) if error is None], ends

    def _take(self, messages: Sequence[Message], ends: Mapping[int, int], now: float) -> list[PartitionBatch]:
        """Decode and judge messages without errors, and move on behind them."""
        if not messages:
            self._note_ends(ends)
            return []
        raw = collect(messages, {p.number: (p.next_offset, p.stop_at) for p in self._partitions.values()})
        judged = self._verdicts.judge(raw, self._clock() // 1_000)
        first = {number: self._partitions[number].next_offset for number, _, _ in raw.spans}
        for number, reached in raw.reached.items():
            partition = self._partitions[number]
            # What lies at or past the recorded end belongs to the next run; there may be a gap before it.
            reached = reached if partition.stop_at is None else min(reached, partition.stop_at)
            partition.next_offset = max(partition.next_offset, reached)
            partition.at_end = False
            partition.last_message_at = now
        self._note_ends(ends)
        batches = []
        for verdicts, (number, start, end) in zip(judged, raw.spans, strict=True):
            progress = self._tell(self._partitions[number], first[number], now)
            assert progress is not None, "the offset moved"
            rows = slice(start, end)
            batches.append(
                PartitionBatch(
                    progress,
                    raw.offsets[rows],
                    raw.arrival_us[rows],
                    raw.sizes[rows],
                    verdicts.accepted,
                    verdicts.late,
                    verdicts.dead,
                    verdicts.duplicates,
                )
            )
        return batches

    def _heed(self, messages: Sequence[Message], errors: Sequence[KafkaError | None], now: float) -> dict[int, int]:
        """Offsets at which partitions end; other errors are raised, or logged if librdkafka tries again."""
        ends: dict[int, int] = {}
        for message, error in zip(messages, errors, strict=True):
            number, offset = message.partition(), message.offset()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                assert number is not None
                assert offset is not None
                ends[number] = offset
                continue
            place = f"topic '{self._spec.topic}' partition {number}"
            if error.code() in _GONE:
                refuse_made_again(self._servers, self._spec.topic, self._settings, self._generation)
                raise OffsetGapError(
                    f"{place}: the offset to read on from is gone: {error.str()}",
                    hint=GAP_HINT,
                )
            if error.code() in _DENIED:
                raise SourceError(f"{place}: {error.str()}", hint="give the worker's user the right to read it")
            self._on_error(error)
        return ends

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka goes on trying by itself; the log need not hear of each time."""
        now = self._monotonic()
        if error.code() in _NO_TOPIC and self._doubt_since is None:
            self._doubt_since = now
        if self._may_warn():
            log.warning("kafka_read_error", source=self._spec.name, error=error.str(), code=error.name())

    def _may_warn(self) -> bool:
        now = self._monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + REPEAT_WARNING_S
        return True

    def _verify_topic(self, doubt_since: float, now: float, *, at_once: bool) -> None:
        """Make sure that a topic of which the broker said that it is not there is the one begun with."""
        if now < self._ask_from and not at_once:
            return
        try:
            found = describe_topic(self._servers, self._spec.topic, self._settings)
        except TopicNotFoundError:
            # A broker that has just started may not know its topics yet.
            if now - doubt_since >= GONE_AFTER_S:
                raise
            self._ask_from = now + ASK_AGAIN_S
        except SourceError as error:
            self._ask_from = now + ASK_AGAIN_S
            log.debug("topic_unknown", source=self._spec.name, error=error.message)
        else:
            if found.generation != self._generation:
                raise made_again(self._spec.topic)
            self._doubt_since = None

    def _note_ends(self, ends: Mapping[int, int]) -> None:
        for number, offset in ends.items():
            partition = self._partitions[number]
            reached = offset if partition.stop_at is None else min(offset, partition.stop_at)
            # An end that was met before further messages of the same poll is none any more.
            if reached >= partition.next_offset:
                # The end lies past markers of transactions and gaps of compaction.
                partition.next_offset = reached
                partition.at_end = True

    def _tell(self, partition: _Partition, first_offset: int, now: float) -> PartitionProgress | None:
        """The partition's progress, None when it is what was told last."""
        state = self._state(partition, now)
        last = partition.told
        if last is not None and (last.next_offset, last.state) == (partition.next_offset, state):
            return None
        if partition.finished and partition.number in self._reading:
            self._reading.remove(partition.number)
            self._consumer.incremental_unassign([self._place(partition.number)])
        first = first_offset if last is None else min(first_offset, last.next_offset)
        newest = self._verdicts.max_event_time_us[partition.number]
        partition.told = PartitionProgress(partition.number, first, partition.next_offset, newest, state)
        return partition.told

    def _state(self, partition: _Partition, now: float) -> PartitionState:
        known = self._verdicts.max_event_time_us[partition.number] != NO_TIME
        if partition.finished:
            return "ended" if known else "empty"
        if not partition.at_end or partition.stop_at is not None:
            return "active"
        if not known:
            return "empty"
        last = partition.told
        if last is not None and last.state == "idle" and last.next_offset == partition.next_offset:
            return "idle"
        silent = now - partition.last_message_at >= self._spec.idle_timeout_us / 1e6
        return "idle" if silent and self._nothing_waits(partition, now) else "active"

    def _nothing_waits(self, partition: _Partition, now: float) -> bool:
        """Whether the broker says that the partition ends where it was read to: a dead one is silent too."""
        if now < self._ask_from:
            return False
        try:
            _, end = self._consumer.get_watermark_offsets(self._place(partition.number), timeout=ASK_TIMEOUT_S)
        except KafkaException as error:
            self._ask_from = now + ASK_AGAIN_S
            log.debug("end_unknown", source=self._spec.name, error=error.args[0].str())
            return False
        return bool(end <= partition.next_offset)

    def _place(self, number: int, offset: int | None = None) -> TopicPartition:
        if offset is None:
            return TopicPartition(self._spec.topic, number)
        return TopicPartition(self._spec.topic, number, offset)

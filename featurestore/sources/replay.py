"""Send messages to their topic again, each at most once, over any crash.

A chunk is one Kafka transaction, and a pair of lines in the journal:

    1. the producer's transactional id fences off an earlier replay that died: nothing of it can arrive any more
    2. the journal holds what is about to be sent, and where the topic ends       (durable)
    3. the messages are sent, each with its origin in a header, and committed
    4. the journal holds that they were sent                                      (durable)

After a crash between 2 and 4 the next replay looks in the topic, behind the recorded ends, for the headers of the
chunk: what is found was sent, the rest may be sent again. Where that can't be seen any more (the topic was made again,
or has forgotten those offsets), the chunk counts as sent: at most once, and told.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from featurestore.errors import SourceError
from featurestore.sources.client import client_settings, kafka_error, make_client
from featurestore.sources.fetch import MessageFetcher
from featurestore.sources.replay_journal import Begun, Origin, ReplayJournal
from featurestore.sources.topics import TopicInfo

log = structlog.get_logger()

ORIGIN_HEADER = "featurestore-replayed-from"
"""Header of a replayed message: topic/generation/partition/offset of the message that it repeats."""

CHUNK = 500
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Replayable:
    """A message to send again: where it stood, and its raw bytes."""

    origin: Origin
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Settled:
    """What became of a chunk that a crash had cut off: messages found in the topic, not there, and not to be known."""

    found: int = 0
    absent: int = 0
    unknown: int = 0


def origin_text(topic: str, origin: Origin) -> str:
    """The value of ORIGIN_HEADER."""
    return f"{topic}/{origin.generation}/{origin.partition}/{origin.offset}"


class Replayer:
    """Sends messages to a topic again. describe: what the topic is now; called before each chunk.

    Made under the journal's lock, it settles first what an earlier replay left. crash_point: called with a name between
    two steps. Raises BrokerUnavailableError, SourceError.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        settings: Mapping[str, str],
        transactional_id: str,
        journal: ReplayJournal,
        describe: Callable[[], TopicInfo],
        *,
        crash_point: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._servers = bootstrap_servers
        self._topic = topic
        self._settings = settings
        self._journal = journal
        self._describe = describe
        self._crash_point = crash_point
        self._doing = f"replaying to topic '{topic}'"
        ours = {"transactional.id": transactional_id, "transaction.timeout.ms": int(TIMEOUT_S * 1000)}
        self._producer = make_client(Producer, {**client_settings(bootstrap_servers, settings), **ours})
        self._failed: KafkaError | None = None
        try:
            self._producer.init_transactions(TIMEOUT_S)
        except KafkaException as error:
            raise self._told(error) from error
        self.settled = self._settle()

    def replay(self, messages: Sequence[Replayable]) -> int:
        """Send what was not sent before, to the partition where it stood, or to its key's where there is none such.

        Returns how many were sent now. What raises leaves a chunk that the next replay settles.
        """
        fresh = (message for message in messages if message.origin not in self._journal.sent)
        sent = 0
        while chunk := list(islice(fresh, CHUNK)):
            self._send(chunk)
            sent += len(chunk)
        return sent

    def _send(self, chunk: Sequence[Replayable]) -> None:
        topic = self._describe()
        ends = {partition: end for partition, (_, end) in topic.partitions.items()}
        origins = [message.origin for message in chunk]
        self._journal.begin(Begun(uuid.uuid4().hex, _now(), topic.generation, ends, origins))
        self._crash_point("begun")
        try:
            self._producer.begin_transaction()
            for message in chunk:
                known = message.origin.partition in topic.partitions
                self._producer.produce(
                    self._topic,
                    message.value,
                    key=message.key,
                    partition=message.origin.partition if known else -1,
                    headers={ORIGIN_HEADER: origin_text(self._topic, message.origin)},
                    on_delivery=self._note,
                )
            self._producer.flush(TIMEOUT_S)
            self._crash_point("produced")
            if self._failed is not None:
                raise KafkaException(self._failed)
            self._producer.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            raise self._told(error) from error
        self._crash_point("committed")
        self._journal.settle(origins, _now())
        self._crash_point("settled")

    def _settle(self) -> Settled:
        chunk = self._journal.unsettled
        if chunk is None:
            return Settled()
        topic = self._describe()
        remembers = topic.generation == chunk.generation and all(
            topic.partitions[partition][0] <= end for partition, end in chunk.ends.items()
        )
        seen = self._seen(chunk, topic) if topic.generation == chunk.generation else set()
        found = [origin for origin in chunk.origins if origin in seen]
        left = len(chunk.origins) - len(found)
        self._journal.settle(found if remembers else chunk.origins, _now())
        settled = Settled(len(found), left if remembers else 0, 0 if remembers else left)
        log.info("replay_settled", topic=self._topic, **vars(settled))
        return settled

    def _seen(self, chunk: Begun, topic: TopicInfo) -> set[Origin]:
        names = {origin_text(self._topic, origin).encode(): origin for origin in chunk.origins}
        fetcher = MessageFetcher(self._servers, self._topic, self._settings)
        try:
            return {
                names[header]
                for partition, (first, end) in topic.partitions.items()
                if (start := max(first, chunk.ends.get(partition, first))) < end
                for message in fetcher.span(partition, start, end)
                for header in _origins_of(message)
                if header in names
            }
        finally:
            fetcher.close()

    def _note(self, error: KafkaError | None, message: Message) -> None:
        self._failed = error or self._failed

    def _told(self, error: KafkaException) -> Exception:
        found = kafka_error(error, self._servers, self._doing)
        if isinstance(found, SourceError) and found.hint is None:
            found.hint = "replaying needs the right to write to the topic and to use transactions"
        return found


def _origins_of(message: Message) -> Iterator[bytes]:
    headers: list[tuple[str, bytes | None]] = message.headers() or []  # type: ignore[assignment]
    yield from (value for name, value in headers if name == ORIGIN_HEADER and value is not None)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")

"""Look at a topic now and then while it is read: it may get more partitions, or be made again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from featurestore.errors import FeatureStoreError
from featurestore.sources.topics import TopicInfo

log = structlog.get_logger()

INTERVAL_SETTING = "topic.metadata.refresh.interval.ms"
"""librdkafka's own setting for how often it looks at its topics: one setting says both."""

DEFAULT_INTERVAL_MS = 30_000
MIN_INTERVAL_MS = 100


class TopicWatch:
    """Looks in a thread of its own: the reader must not wait for an answer.

    look: describes the topic. settings: librdkafka's, of the user. What looking raises is logged at level debug: the
    reader tells of a broker that is gone.
    """

    def __init__(self, look: Callable[[], TopicInfo], settings: Mapping[str, str]) -> None:
        self._look = look
        self._interval_s = max(int(settings.get(INTERVAL_SETTING, DEFAULT_INTERVAL_MS)), MIN_INTERVAL_MS) / 1_000
        self._seen: TopicInfo | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="topic-watch", daemon=True).start()

    @property
    def seen(self) -> TopicInfo | None:
        """The topic as it was last seen, None before the first answer."""
        return self._seen

    def close(self) -> None:
        """Stop looking; does not wait for an answer under way."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self._seen = self._look()
            except FeatureStoreError as error:
                log.debug("topic_not_seen", error=error.message)

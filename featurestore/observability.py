"""What can be seen of a running process: all metrics, declared in one table, and the set-up of the log.

A log line is an event with fields, never a sentence: `log.info("commit", shard=3, duration_ms=7.9)`.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from featurestore.batches import SourcePoll

log = structlog.get_logger()

PREFIX = "featurestore_"

# 1 ms to 10 s: a commit; 50 µs to 1 s: a read.
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
READ_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True)
class Declared:
    """One row of the table: kind of metric, what it tells, its labels."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# Attribute of Metrics to declaration. The name is `featurestore_` + attribute; counters end in `_total`.
# Labels are bounded: names of definitions, partitions, reasons and statuses; never an entity's key.
TABLE: dict[str, Declared] = {
    "events_read_total": Declared(Counter, "Messages read from the topic.", ("source",)),
    "events_accepted_total": Declared(Counter, "Events archived and handed to the shards.", ("source",)),
    "events_late_accepted_total": Declared(
        Counter,
        "Accepted events that came behind their partition's watermark.",
        ("source",),
    ),
    "events_too_late_total": Declared(Counter, "Events beyond the allowed lateness, kept under late/.", ("source",)),
    "dead_letters_total": Declared(
        Counter,
        "Messages that could not be decoded or validated, kept under dead_letter/.",
        ("source", "reason"),
    ),
    "events_duplicate_total": Declared(
        Counter, "Events that their partition had brought already (`dedupe_by`).", ("source",)
    ),
    "watermark_seconds": Declared(
        Gauge, "Watermark of a partition, seconds since the epoch of event time.", ("source", "partition")
    ),
    "watermark_delay_seconds": Declared(Gauge, "Wall clock minus the view's watermark.", ("view", "version")),
    "consumer_lag": Declared(Gauge, "Messages between what was read and the partition's end.", ("source", "partition")),
    "offsets_lost": Declared(
        Gauge,
        "Offsets that the broker had removed before they were read, left out with --accept-gap; since the store began.",
        ("source", "partition"),
    ),
    "commit_duration_seconds": Declared(
        Histogram, "Time of one shard's commit: merge, write, emission.", ("source",), COMMIT_BUCKETS
    ),
    "rows_written_total": Declared(Counter, "Entity rows written to the online store.", ("view", "version")),
    "snapshot_rows_total": Declared(Counter, "Rows emitted to the offline store.", ("view", "version")),
    "applied_total": Declared(Counter, "Events that entered the view's features.", ("view", "version")),
    "filtered_total": Declared(Counter, "Events that the view's `where` dropped.", ("view", "version")),
    "null_key_total": Declared(Counter, "Events without a join key.", ("view", "version")),
    "beyond_retention_total": Declared(
        Counter,
        "Applied events older than the tiles kept: closed windows stay uncorrected.",
        ("view", "version"),
    ),
    "request_duration_seconds": Declared(Histogram, "Time of one HTTP read request.", (), READ_BUCKETS),
    "read_duration_seconds": Declared(Histogram, "Time in the online store of one request.", (), READ_BUCKETS),
    "feature_statuses_total": Declared(Counter, "Values served, by status.", ("view", "status")),
    "freshness_seconds": Declared(Gauge, "Wall clock minus the newest event time of the view.", ("view",)),
}


class CommitReport(Protocol):
    """What `Metrics.observe_commit` needs to know of a shard's commit; dicts by "view@version"."""

    @property
    def rows_written(self) -> Mapping[str, int]:
        """Rows written to the online store."""

    @property
    def snapshot_rows(self) -> Mapping[str, int]:
        """Rows put into the outbox."""

    @property
    def counts(self) -> Mapping[str, Any]:
        """Of this commit: applied, filtered, null_key, beyond_retention."""

    @property
    def watermark_us(self) -> Mapping[str, int]:
        """The view's watermark after the commit."""


@dataclass(frozen=True)
class Metrics:
    """All metrics of a process; `create_metrics` makes it. What each one tells stands in TABLE."""

    events_read_total: Counter
    events_accepted_total: Counter
    events_late_accepted_total: Counter
    events_too_late_total: Counter
    dead_letters_total: Counter
    events_duplicate_total: Counter
    watermark_seconds: Gauge
    watermark_delay_seconds: Gauge
    consumer_lag: Gauge
    offsets_lost: Gauge
    commit_duration_seconds: Histogram
    rows_written_total: Counter
    snapshot_rows_total: Counter
    applied_total: Counter
    filtered_total: Counter
    null_key_total: Counter
    beyond_retention_total: Counter
    request_duration_seconds: Histogram
    read_duration_seconds: Histogram
    feature_statuses_total: Counter
    freshness_seconds: Gauge

    def observe_poll(self, source: str, poll: SourcePoll, max_out_of_orderness_us: int) -> None:
        """Count what one poll of a source gave, and note the partitions' watermarks."""
        for batch in poll.batches:
            self.events_read_total.labels(source).inc(len(batch.offsets))
            self.events_accepted_total.labels(source).inc(len(batch.accepted))
            self.events_too_late_total.labels(source).inc(len(batch.late))
            self.events_duplicate_total.labels(source).inc(len(batch.duplicates))
            if len(batch.accepted):
                # A partition without a watermark yet has the least int64 there: nothing is behind it.
                behind = batch.accepted["event_time"].dt.epoch("us") < batch.accepted["_partition_watermark"]
                self.events_late_accepted_total.labels(source).inc(int(behind.sum()))
            for reason, count in Tally(batch.dead["reason"].to_list()).items():
                self.dead_letters_total.labels(source, reason).inc(count)
        for progress in poll.progress:
            if progress.max_event_time_us > 0:
                watermark_us = progress.max_event_time_us - max_out_of_orderness_us
                self.watermark_seconds.labels(source, str(progress.partition)).set(watermark_us / 1e6)

    def observe_lag(self, source: str, lag: Mapping[int, int]) -> None:
        """Note how far each partition's end is away."""
        for partition, messages in lag.items():
            self.consumer_lag.labels(source, str(partition)).set(messages)

    def observe_offsets_lost(self, source: str, partition: int, offsets: int) -> None:
        """Note how many offsets of a partition were ever left out."""
        self.offsets_lost.labels(source, str(partition)).set(offsets)

    def observe_commit(self, source: str, report: CommitReport, seconds: float) -> None:
        """Count what one shard's commit did. The counts of a report are those of that commit alone."""
        self.commit_duration_seconds.labels(source).observe(seconds)
        for view, rows in report.rows_written.items():
            self.rows_written_total.labels(*_split(view)).inc(rows)
        for view, rows in report.snapshot_rows.items():
            self.snapshot_rows_total.labels(*_split(view)).inc(rows)
        for view, counts in report.counts.items():
            labels = _split(view)
            self.applied_total.labels(*labels).inc(counts.applied)
            self.filtered_total.labels(*labels).inc(counts.filtered)
            self.null_key_total.labels(*labels).inc(counts.null_key)
            self.beyond_retention_total.labels(*labels).inc(counts.beyond_retention)
        for view, watermark_us in report.watermark_us.items():
            if watermark_us > 0:
                _set_age(self.watermark_delay_seconds.labels(*_split(view)), watermark_us)

    def observe_newest_event(self, view: str, event_time_us: int) -> None:
        """Note the newest event time of a view, for `freshness_seconds`."""
        _set_age(self.freshness_seconds.labels(view), event_time_us)


def _split(reference: str) -> tuple[str, str]:
    """Labels of "view@version"."""
    view, _, version = reference.partition("@")
    return view, version


def _set_age(gauge: Gauge, since_us: int) -> None:
    # Computed when scraped: an age set once would stand still when nothing comes any more.
    gauge.set_function(lambda: time.time() - since_us / 1e6)


def create_metrics(registry: CollectorRegistry | None = None) -> Metrics:
    """All metrics of TABLE in `registry`; without one, in the process's own, where they are made once."""
    return _process_metrics() if registry is None else _create(registry)


@functools.cache
def _process_metrics() -> Metrics:
    return _create(REGISTRY)


def _create(registry: CollectorRegistry) -> Metrics:
    assert [field.name for field in fields(Metrics)] == list(TABLE), "Metrics and TABLE list the same"
    made: dict[str, Any] = {}
    for name, declared in TABLE.items():
        options: dict[str, Any] = {"buckets": declared.buckets} if declared.buckets else {}
        if declared.kind is Gauge:
            # Where processes share their metrics (`exposition`), the value set last is the one that counts.
            options["multiprocess_mode"] = "mostrecent"
        made[name] = declared.kind(f"{PREFIX}{name}", declared.help, declared.labels, registry=registry, **options)
    return Metrics(**made)


def exposition(registry: CollectorRegistry | None = None) -> tuple[bytes, str]:
    """`registry` (without one, the process's own) in Prometheus' text format, and its content type.

    Where PROMETHEUS_MULTIPROC_DIR was set before this module's import, it is the sum over all processes that
    share the folder, whichever of them is asked.
    """
    if registry is None and os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry or REGISTRY), CONTENT_TYPE_LATEST


def serve_metrics(
    port: int, host: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> Callable[[], None] | None:
    """Serve `registry` (without one, the process's own) at http://host:port/metrics, in a thread.

    Returns what stops it. A port that can't be had is a warning in the log and None: a worker without metrics
    is better than none.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry or REGISTRY)
    except OSError as error:
        log.warning("metrics_not_served", host=host, port=port, error=error.strerror or str(error))
        return None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def write_metrics(path: Path, every_s: float) -> None:
    """Write the process's metrics to a file again and again, in a thread, for `read_samples` of another process.

    The file is replaced as a whole. It stops when its folder is gone.
    """

    def write() -> None:
        while path.parent.is_dir():
            try:
                path.with_suffix(".new").write_bytes(generate_latest(REGISTRY))
                path.with_suffix(".new").rename(path)
            except OSError as error:
                log.debug("metrics_not_written", path=str(path), error=str(error))
            time.sleep(every_s)

    threading.Thread(target=write, name="write-metrics", daemon=True).start()


class Sample(NamedTuple):
    """One line of metrics. name: without `featurestore_`; counters end in `_total`."""

    name: str
    labels: Mapping[str, str]
    value: float


def read_samples(text: str) -> list[Sample]:
    """This project's samples in a text of Prometheus' format; those of other libraries are left out."""
    return [
        Sample(sample.name.removeprefix(PREFIX), sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    ]


def configure_logging(level: str = "info", *, json: bool | None = None) -> None:
    """Log to stderr, one line an event: JSON, or in colour when stderr is a terminal.

    level: "debug" | "info" | "warning" | "error". json: overrules the look at the terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # One write a line: print() writes the line and its end apart, and those of several processes ran together.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )

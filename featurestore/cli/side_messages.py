"""Too-late events and dead letters for the command line: find them, and plan and carry out their replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, OFFSET, PARTITION
from featurestore.cli.options import require_data_dir
from featurestore.cli.status_report import read_states
from featurestore.config import Settings
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_duration
from featurestore.errors import ConfigError, RegistryError
from featurestore.offline.archive import read_ends
from featurestore.offline.layout import DEAD_LETTER, LATE, Kind
from featurestore.offline.read import read_side
from featurestore.registry import RegisteredBatchView, RegisteredView, Registry
from featurestore.sources.embedded import resolve_bootstrap
from featurestore.sources.fetch import MessageFetcher
from featurestore.sources.replay import Replayable, Replayer, Settled
from featurestore.sources.replay_journal import Origin, journal_path, open_journal, read_replayed
from featurestore.sources.schema_registry import SchemaRegistry
from featurestore.sources.topics import TopicInfo, look_at_topic
from featurestore.sources.trial import ACCEPTED, TOO_LATE, Trial, try_messages

REPLAYED = "replayed"
_PLACE = ["generation", PARTITION, OFFSET]


@dataclass(frozen=True)
class Deployed:
    """The registry's sources, the views of each, and the served version of each batch view, by name."""

    sources: dict[str, SourceSpec]
    views: dict[str, list[RegisteredView]]
    batch_views: dict[str, RegisteredBatchView]

    def source(self, name: str | None) -> SourceSpec:
        """The source asked for, or the only one. Raises RegistryError for an unknown name, ConfigError without one."""
        if name is None:
            if len(self.sources) == 1:
                return next(iter(self.sources.values()))
            has = ", ".join(self.sources) or "none: featurestore apply MODULE"
            raise ConfigError("which source?", hint=f"--source NAME; there is {has}")
        if name not in self.sources:
            near = get_close_matches(name, self.sources, n=3) or list(self.sources)
            raise RegistryError(f"there is no source '{name}'", hint=f"there is {', '.join(near) or 'none'}")
        return self.sources[name]


def load_deployed(settings: Settings) -> Deployed:
    """Read the registry. Raises StoreError without a data_dir, RegistryError without a registry."""
    require_data_dir(settings)
    registry = Registry.open(settings.registry_place, create=False)
    try:
        views: dict[str, list[RegisteredView]] = {}
        for view in registry.live_views():
            views.setdefault(view.spec.source, []).append(view)
        batch_views = {view.spec.name: view for view in registry.batch_views()}
        return Deployed({name: registry.source(name) for name in sorted(views)}, views, batch_views)
    finally:
        registry.close()


def find_messages(
    data_dir: Path,
    kind: Kind,
    source: str,
    *,
    reason: str | None = None,
    partition: int | None = None,
    offset: int | None = None,
) -> pl.DataFrame:
    """Archived late events or dead letters with `generation` and `replayed`; an empty frame when nothing fits."""
    rows = read_side(data_dir / "offline", kind, source)
    if rows.is_empty():
        return rows
    for column, value in (("reason", reason), (PARTITION, partition), (OFFSET, offset)):
        if value is not None:
            rows = rows.filter(pl.col(column) == value)
    sent = sorted(read_replayed(journal_path(data_dir, source)))
    places = pl.DataFrame(
        [(o.generation, o.partition, o.offset) for o in sent],
        schema={"generation": pl.String, PARTITION: pl.Int32, OFFSET: pl.Int64},
        orient="row",
    ).with_columns(pl.lit(True).alias(REPLAYED))
    return rows.join(places, on=_PLACE, how="left").with_columns(pl.col(REPLAYED).fill_null(False))


class ReplayPlan(msgspec.Struct, frozen=True):
    """What a replay would do. selected = already_replayed + not_in_topic + the verdicts' sum; to_send: those accepted.

    verdicts: what each would be if it came now, under the applied definition. lateness_needed: the allowed lateness
    under which all too-late ones would be accepted, None when there are none. behind_correction_line: by view, accepted
    ones so old that windows that they belong to are final.
    """

    source: str
    topic: str
    selected: int
    already_replayed: int
    not_in_topic: int
    verdicts: dict[str, int]
    to_send: int
    allowed_lateness: str
    lateness_needed: str | None
    behind_correction_line: dict[str, int]


@dataclass(frozen=True)
class PreparedReplay:
    """A plan and the messages that it would send."""

    plan: ReplayPlan
    messages: list[Replayable]


class ReplayDesk:
    """Plans and carries out replays for one source of a project. Raises BrokerUnavailableError, TopicNotFoundError."""

    def __init__(self, settings: Settings, deployed: Deployed, source: SourceSpec, base_dir: Path) -> None:
        self._settings = settings
        self._source = source
        self._views = deployed.views[source.name]
        self._base_dir = base_dir
        self._data_dir = settings.store.data_dir
        kafka = settings.kafka
        self._servers = resolve_bootstrap(kafka.bootstrap_servers, self._data_dir, stop=lambda: True)
        self._topic = self._describe()

    def prepare(self, kind: Kind, rows: pl.DataFrame) -> PreparedReplay:
        """Judge what was found, as if it came now."""
        fresh = rows.filter(~pl.col(REPLAYED)) if rows.height else rows
        messages = [*self._of_letters(fresh)] if kind == DEAD_LETTER else self._from_topic(fresh)
        trial = self._try(messages)
        chosen = [index for index, verdict in enumerate(trial.verdicts) if verdict == ACCEPTED]
        needed_us = int(trial.needed_us.max(initial=0))
        plan = ReplayPlan(
            source=self._source.name,
            topic=self._source.topic,
            selected=rows.height,
            already_replayed=rows.height - fresh.height,
            not_in_topic=fresh.height - len(messages),
            verdicts=dict(sorted(Counter(trial.verdicts).items())),
            to_send=len(chosen),
            allowed_lateness=format_duration(self._source.allowed_lateness_us),
            lateness_needed=format_duration(-(-needed_us // 1_000_000) * 1_000_000) if needed_us else None,
            behind_correction_line=self._behind_line(trial.event_us[chosen]),
        )
        return PreparedReplay(plan, [messages[index] for index in chosen])

    def replay(self, messages: Sequence[Replayable]) -> tuple[int, Settled]:
        """Send them, each at most once; how many were sent now, and what became of an earlier replay that had died."""
        kafka = self._settings.kafka
        transactional_id = f"{kafka.group_id}.{self._source.name}.replay"
        with open_journal(self._data_dir, self._source.name) as journal:
            replayer = Replayer(
                self._servers, self._source.topic, kafka.settings, transactional_id, journal, self._describe
            )
            return replayer.replay(messages), replayer.settled

    def _describe(self) -> TopicInfo:
        kafka = self._settings.kafka
        return look_at_topic(kafka.bootstrap_servers, self._source.topic, kafka.settings, self._data_dir)

    @staticmethod
    def _of_letters(rows: pl.DataFrame) -> list[Replayable]:
        if rows.is_empty():
            return []
        columns = rows.select(*_PLACE, "key", "value").iter_rows()
        return [Replayable(Origin(g, partition, offset), key, value) for g, partition, offset, key, value in columns]

    def _from_topic(self, rows: pl.DataFrame) -> list[Replayable]:
        """Late events keep no raw bytes: they are read from the topic again, as far as it has them still."""
        found: list[Replayable] = []
        if rows.is_empty():
            return found
        generation = self._topic.generation
        fetcher = MessageFetcher(self._servers, self._source.topic, self._settings.kafka.settings)
        try:
            for partition, (first, _) in self._topic.partitions.items():
                mine = rows.filter(pl.col("generation") == generation, pl.col(PARTITION) == partition)
                offsets = mine.filter(pl.col(OFFSET) >= first)[OFFSET].sort().to_list()
                for message in fetcher.at(partition, offsets):
                    offset = message.offset()
                    assert offset is not None
                    found.append(Replayable(Origin(generation, partition, offset), message.key(), message.value()))
        finally:
            fetcher.close()
        return found

    def _try(self, messages: Sequence[Replayable]) -> Trial:
        ends = read_ends(self._data_dir / "offline", self._source.name, self._topic.generation)
        url = self._settings.schema_registry.url
        registry = SchemaRegistry(url) if url and self._source.format == "avro-confluent" else None
        return try_messages(
            self._source,
            self._base_dir,
            registry,
            [message.value for message in messages],
            [message.origin.partition for message in messages],
            {partition: end.max_event_time_us for partition, end in ends.items()},
        )

    def _behind_line(self, event_us: np.ndarray) -> dict[str, int]:
        states = read_states(self._data_dir, self._source, self._views)
        lines = {name: max((state.line_us for state in found), default=NO_TIME) for name, found in states.items()}
        counts = {name: int((event_us < line).sum()) for name, line in lines.items()}
        return {name: count for name, count in counts.items() if count}


def tell_plan(plan: ReplayPlan, kind: Kind) -> list[str]:
    """The plan in sentences."""
    what = "too-late events" if kind == LATE else "dead letters"
    lines = [f"{plan.selected:,} {what} selected, {plan.already_replayed:,} of them replayed before"]
    if plan.not_in_topic:
        lines.append(f"  {plan.not_in_topic:,} can't be replayed: the topic does not have them any more")
    for verdict, count in plan.verdicts.items():
        then = "sent" if verdict == ACCEPTED else "not sent"
        would = verdict if verdict in (ACCEPTED, TOO_LATE) else f"dead letters again ({verdict})"
        lines.append(f"  {count:,} would be {would} under the applied definition: {then}")
    if plan.lateness_needed:
        lines.append(
            f"  too late: they are too far behind their partitions' newest events; allowed_lateness is "
            f"{plan.allowed_lateness}, all of them would need {plan.lateness_needed}"
        )
    for view, count in plan.behind_correction_line.items():
        lines.append(
            f"  {count:,} of those sent lie behind the correction line of {view}: its final windows stay as they are"
        )
    if plan.to_send:
        lines.append(
            "  a replayed message gets a new offset, and is judged by its partition's watermark when it is read"
        )
    return lines


def tell_settled(settled: Settled) -> list[str]:
    """What became of an earlier replay that had died, nothing when there was none."""
    if settled == Settled():
        return []
    lines = [
        f"An earlier replay had died: {settled.found:,} of its last messages are in the topic, "
        f"{settled.absent:,} are not and may be replayed again"
    ]
    if settled.unknown:
        lines.append(f"  of {settled.unknown:,} it can't be known any more; they count as replayed")
    return lines

"""Which datasets `featurestore offline compact`, `prune` and `iceberg` are about, their order, and what must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from featurestore.batches import NO_TIME
from featurestore.cli.batch_status import batch_state
from featurestore.cli.side_messages import Deployed, load_deployed
from featurestore.cli.status_report import compile_registered, read_states
from featurestore.config import Settings
from featurestore.errors import StoreError
from featurestore.namespaces import name_of_folder
from featurestore.offline.compaction import Job, plan_snapshots, plan_source
from featurestore.offline.completeness import read_marker_us
from featurestore.offline.iceberg import TableFiles, batch_row_files, event_files, snapshot_files
from featurestore.offline.layout import BATCH, EVENTS, FEATURES, batch_stem, view_of
from featurestore.offline.pieces import snapshot_folders
from featurestore.offline.retention import Removal, plan_archive_removal, plan_snapshot_removal
from featurestore.registry import RegisteredView

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class PlannedRemoval:
    """A removal, the age limit that it keeps, and who holds older rows back (None: nobody)."""

    removal: Removal
    before: datetime
    held_by: str | None


@dataclass(frozen=True)
class Chosen:
    """Datasets of a project. sources: names; folders: of snapshots; batch_folders: of batch views' rows."""

    data_dir: Path
    deployed: Deployed
    sources: list[str]
    folders: list[Path]
    batch_folders: list[Path]

    @property
    def root(self) -> Path:
        return self.data_dir / "offline"

    def plan_compaction(self) -> list[Job]:
        """What there is to compact now."""
        jobs: list[Job] = []
        for source in self.sources:
            jobs += plan_source(self.root, source, self._source_keys(source))
        for folder in self.folders:
            jobs += plan_snapshots(self.root, folder, self._view_keys(folder), self._intent_dirs())
        return jobs

    def plan_tables(self) -> list[TableFiles]:
        """The files that a table of each dataset has now."""
        return [
            *(event_files(self.root, source) for source in self.sources),
            *(snapshot_files(self.root, folder, self._intent_dirs()) for folder in self.folders),
            *(batch_row_files(self.root, folder, partial(self._running_stem, folder)) for folder in self.batch_folders),
        ]

    def plan_removals(self, older_than_us: int, now: datetime) -> list[PlannedRemoval]:
        """What is older than so many µs now, and may go."""
        cutoff = now - timedelta(microseconds=older_than_us)
        planned = []
        for source in self.sources:
            before, held_by = self._archive_limit(source, cutoff)
            planned.append(PlannedRemoval(plan_archive_removal(self.root, source, before), before, held_by))
        for folder in self.folders:
            before, held_by = self._snapshot_limit(folder, cutoff)
            removal = plan_snapshot_removal(self.root, folder, before, self._intent_dirs())
            planned.append(PlannedRemoval(removal, before, held_by))
        return planned

    def _intent_dirs(self) -> list[Path]:
        return sorted((self.data_dir / "online").glob("*/outbox/process-*"))

    def _running_stem(self, folder: Path) -> str | None:
        """What the files of the interval that is being materialized, or was when it was killed, begin with."""
        view = self.deployed.batch_views.get(view_of(folder))
        if view is None:
            return None
        running = batch_state(self.data_dir, view, int(folder.parent.name.removeprefix("v"))).running
        return None if running is None else batch_stem(running.from_us, running.to_us)

    def _source_keys(self, source: str) -> Sequence[str]:
        """The join keys that most views of a source have: who reads some entities' events skips most row groups."""
        views = self.deployed.views.get(source, [])
        found = Counter(tuple(key.name for key in view.spec.join_keys) for view in views)
        return max(found, key=lambda keys: (found[keys], keys), default=())

    def _view_keys(self, folder: Path) -> Sequence[str]:
        view = self._view(folder)
        return () if view is None else [key.name for key in view.spec.join_keys]

    def _view(self, folder: Path) -> RegisteredView | None:
        every = (view for views in self.deployed.views.values() for view in views)
        mine = [view for view in every if view.name == view_of(folder)]
        return next((view for view in mine if f"v{view.version}" == folder.parent.name), mine[-1] if mine else None)

    def _archive_limit(self, source: str, cutoff: datetime) -> tuple[datetime, str | None]:
        """A view's open windows and their corrections reach back from its correction line by its retention."""
        limits: list[tuple[datetime, str | None]] = [(cutoff, None)]
        views = self.deployed.views.get(source, [])
        if views:
            spec = self.deployed.sources[source]
            states = read_states(self.data_dir, spec, views)
            for view in views:
                line_us = min((state.line_us for state in states[view.reference]), default=NO_TIME)
                reach_us = compile_registered(view, spec).retention_us
                limits.append((_EPOCH if line_us == NO_TIME else _instant(line_us - reach_us), view.spec.name))
        return min(limits, key=lambda limit: limit[0])

    def _snapshot_limit(self, folder: Path, cutoff: datetime) -> tuple[datetime, str | None]:
        """Rows behind the completeness marker may still be corrected; an older version without one is final."""
        view, version = view_of(folder), folder.parent.name.removeprefix("v")
        marker_us = read_marker_us(self.root, view, int(version))
        registered = self._view(folder)
        if marker_us is None:
            current = registered is not None and registered.version == int(version)
            return (_EPOCH, "not final yet") if current else (cutoff, None)
        return min((cutoff, None), (_instant(marker_us), "not final yet"), key=lambda limit: limit[0])


def choose_datasets(settings: Settings, names: Sequence[str]) -> Chosen:
    """The datasets of sources and views by name; all there are without names.

    Raises StoreError for a name of which nothing is written, and without a data_dir; RegistryError without a registry.
    """
    deployed = load_deployed(settings)
    data_dir = settings.store.data_dir
    root = data_dir / "offline"
    sources = sorted(name_of_folder(path.name) for path in (root / EVENTS).glob("*") if path.is_dir())
    folders = list(snapshot_folders(root))
    batch_folders = sorted((root / FEATURES).glob(f"*/v*/{BATCH}"))
    known = {*sources, *(view_of(folder) for folder in (*folders, *batch_folders))}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3) or sorted(known)
            raise StoreError(
                f"nothing is written of a source or view '{name}'",
                hint=f"there is {', '.join(near) or 'nothing yet: featurestore run MODULE'}",
            )
    wanted = set(names) or known
    chosen, rows = ([one for one in some if view_of(one) in wanted] for some in (folders, batch_folders))
    return Chosen(data_dir, deployed, [source for source in sources if source in wanted], chosen, rows)


def _instant(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)

"""The registry: what is deployed, and the one way to change it.

Every definition is stored as its spec's canonical JSON with its SHA-256. A view keeps its id for good; each change of
what it computes makes a new version, with online rows and Parquet paths of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy import insert as insert_into

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry.database import Database
from featurestore.registry.history import record, user
from featurestore.registry.plan import VIEW_KINDS, Change, Kind, Plan, Stored, StoredDefinition, make_plan, still_fits
from featurestore.registry.records import SPEC_TYPES, content_hash, decoded, encoded
from featurestore.registry.services import RegisteredFeatureService
from featurestore.registry.source_changes import SourceChanges
from featurestore.registry.tables import (
    CHANGES,
    DEFINITIONS,
    PAUSED,
    ROUTES,
    VIEW_VERSIONS,
    WATERMARK_RESETS,
)
from featurestore.registry.version_rows import add_version, live_rows, retire_superseded
from featurestore.registry.versions import Versions, split_reference
from featurestore.registry.views import AnyView, RegisteredBatchView, RegisteredView, Route


@dataclass(frozen=True)
class WatermarkReset:
    """An operator took a view's watermark back: when (UTC), who, from and to which instant (µs), and why."""

    version: int
    at: datetime
    by: str
    from_us: int
    to_us: int
    reason: str


class Registry:
    """What is deployed. Safe for several processes: writers are serialised by the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.versions = Versions(database)
        """Versions of views side by side: promote, roll back, retire, canary."""
        self.source_changes = SourceChanges(database)
        """From which offset on a source's definition decides."""

    @classmethod
    def open(cls, place: Path | str, *, create: bool = True) -> Registry:
        """Open the registry in a SQLite file, or in PostgreSQL by its URL ("postgresql://…").

        create: make it when it is missing; else a missing one raises RegistryError. Reading needs no right to write,
        but for a registry of an older featurestore, whose tables are brought up to date.
        """
        return cls(Database.open(place, create=create))

    @property
    def database(self) -> Database:
        """The database, for what keeps records of its own beside the definitions (jobs, reads, models)."""
        return self._database

    def plan(self, resolved: ResolvedDefinitions) -> Plan:
        """What applying these definitions would change. Nothing is written."""
        with self._database.transaction() as connection:
            return make_plan(self._read(connection), resolved)

    def apply(self, plan: Plan, *, revision: str | None = None, promote: bool | Kind = False) -> None:
        """Write a plan, all or nothing.

        revision: the git revision of the definitions. promote: new versions, or those of views of this kind alone, are
        served at once; else the version that is served stays so until `versions.promote`.
        Raises RegistryError when the registry changed since the plan was made, unless to what the plan wants: the
        same definitions may be applied from two places at once.
        """
        with self._database.transaction(write=True) as connection:
            stored = self._read(connection)
            for key in plan.unchanged:
                still_fits(key, plan, stored)
            for change in (*plan.added, *plan.changed):
                if still_fits((change.kind, change.name), plan, stored):
                    _refuse_taken(change, plan, stored)
                    self._write(connection, change, plan, stored, revision, promote=promote)

    def views(self) -> list[RegisteredView]:
        """The served version of each stream view, by name."""
        return [self._view(row) for row in self._live("view") if row.version == row.served]

    def live_views(self) -> list[RegisteredView]:
        """All versions of stream views that are computed, by name and version."""
        return [self._view(row) for row in self._live("view")]

    def batch_views(self) -> list[RegisteredBatchView]:
        """The served version of each batch view, by name."""
        return [self._batch_view(row) for row in self._live("batch_view") if row.version == row.served]

    def live_batch_views(self) -> list[RegisteredBatchView]:
        """All versions of batch views that are materialized, by name and version."""
        return [self._batch_view(row) for row in self._live("batch_view")]

    def feature_services(self) -> dict[str, RegisteredFeatureService]:
        """All deployed feature services, by name."""
        with self._database.transaction() as connection:
            rows = _rows_of(connection, "feature_service")
        return {row.name: RegisteredFeatureService.of(row, self._decoded(row.spec, FeatureServiceSpec)) for row in rows}

    def sources(self) -> dict[str, SourceSpec]:
        """All deployed sources, by name."""
        with self._database.transaction() as connection:
            rows = _rows_of(connection, "source")
        return {row.name: self._decoded(row.spec, SourceSpec) for row in rows}

    def source(self, name: str) -> SourceSpec:
        """One deployed source. Raises RegistryError when there is none of that name."""
        query = select(DEFINITIONS.c.spec).where(DEFINITIONS.c.kind == "source", DEFINITIONS.c.name == name)
        with self._database.transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RegistryError(f"there is no source '{name}' in {self._database.place}", hint="apply its module")
        found: SourceSpec = self._decoded(row.spec, SourceSpec)
        return found

    def view(self, reference: str) -> RegisteredView:
        """A deployed stream view: "name" the version that is served, "name@2" that one, while it is computed.

        Raises UnknownViewError, naming the nearest; also for a batch view.
        """
        view = self.any_view(reference)
        if isinstance(view, RegisteredBatchView):
            raise UnknownViewError(
                f"'{view.name}' is a batch view, no stream view",
                hint=f"it is kept by featurestore materialize {view.name}",
            )
        return view

    def any_view(self, reference: str) -> AnyView:
        """A deployed view, stream or batch, as `view` finds it. Raises UnknownViewError, naming the nearest."""
        name, version = split_reference(reference)
        with self._database.transaction() as connection:
            rows = {kind: live_rows(connection, kind) for kind in VIEW_KINDS}
        mine = [(kind, row) for kind in VIEW_KINDS for row in rows[kind] if row.name == name]
        for kind, row in mine:
            if row.version == (row.served if version is None else version):
                return self._view(row) if kind == "view" else self._batch_view(row)
        if mine:
            raise UnknownViewError(
                f"version {version} of view '{name}' is not computed",
                hint=f"computed are {', '.join(f'{name}@{row.version}' for _, row in mine)}",
            )
        near = get_close_matches(name, {row.name for found in rows.values() for row in found}, n=3)
        raise UnknownViewError(
            f"there is no view '{name}'",
            hint=f"did you mean {', '.join(near)}?" if near else "see featurestore status",
        )

    def routes(self) -> dict[str, Route]:
        """Of each view, which version readers get."""
        joined = select(DEFINITIONS.c.name, ROUTES).join_from(ROUTES, DEFINITIONS, ROUTES.c.view_id == DEFINITIONS.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(joined).all()
        return {
            row.name: Route(row.served, row.changed_at, row.changed_by, row.previous, row.canary, row.canary_share)
            for row in rows
        }

    def change_number(self) -> int:
        """Grows with every change of definitions, versions and routes; cheap to ask."""
        with self._database.transaction() as connection:
            return connection.execute(select(func.max(CHANGES.c.id))).scalar() or 0

    def paused(self) -> dict[str, datetime]:
        """Paused views and since when, UTC."""
        with self._database.transaction() as connection:
            return {row.name: row.since for row in connection.execute(select(PAUSED))}

    def pause(self, name: str) -> bool:
        """Leave a view out of runs that start from now on; False when it is paused already. Raises UnknownViewError."""
        self.view(name)
        if name in self.paused():
            return False
        with self._database.transaction(write=True) as connection:
            row = {"name": name, "since": datetime.now(timezone.utc), "paused_by": user()}
            connection.execute(insert_into(PAUSED).values(**row))
            record(connection, "pause", "view", name)
        return True

    def resume(self, name: str) -> bool:
        """Take a view into runs again; False when it is not paused. Raises UnknownViewError."""
        self.view(name)
        if name not in self.paused():
            return False
        with self._database.transaction(write=True) as connection:
            connection.execute(delete(PAUSED).where(PAUSED.c.name == name))
            record(connection, "resume", "view", name)
        return True

    def record_watermark_reset(self, view: RegisteredView, from_us: int, to_us: int, reason: str) -> None:
        """Write down, for good, that the caller is about to take a view's watermark back."""
        with self._database.transaction(write=True) as connection:
            row = {"view": view.name, "version": view.version, "from_us": from_us, "to_us": to_us}
            row |= {"reason": reason, "at": datetime.now(timezone.utc), "by": user()}
            connection.execute(insert_into(WATERMARK_RESETS).values(**row))

    def watermark_resets(self, view: str) -> list[WatermarkReset]:
        """All resets of a view's watermark, of all its versions, the oldest first."""
        resets = select(WATERMARK_RESETS).where(WATERMARK_RESETS.c.view == view).order_by(WATERMARK_RESETS.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(resets).all()
        return [WatermarkReset(row.version, row.at, row.by, row.from_us, row.to_us, row.reason) for row in rows]

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    def _read(self, connection: Connection) -> Stored:
        live: dict[int, dict[str, int]] = {}
        last: dict[int, int] = {}
        for row in connection.execute(select(VIEW_VERSIONS).order_by(VIEW_VERSIONS.c.version)):
            last[row.view_id] = row.version
            if row.retired_at is None:
                live.setdefault(row.view_id, {})[row.spec] = row.version
        stored: dict[Any, StoredDefinition] = {}
        for row in connection.execute(select(DEFINITIONS)):
            spec = self._decoded(row.spec, SPEC_TYPES[row.kind])
            versions = {
                fingerprint(spec if text == row.spec else self._decoded(text, SPEC_TYPES[row.kind])): version
                for text, version in live.get(row.id, {}).items()
            }
            stored[row.kind, row.name] = StoredDefinition(row.id, row.version, spec, versions, last.get(row.id, 1))
        return stored

    def _write(
        self,
        connection: Connection,
        change: Change,
        plan: Plan,
        stored: Stored,
        revision: str | None,
        *,
        promote: bool | Kind,
    ) -> None:
        key = (change.kind, change.name)
        text, row = encoded(plan.specs[key]), stored.get(key)
        now, who = datetime.now(timezone.utc), user()
        values: dict[str, Any] = {
            "spec": text,
            "content_hash": content_hash(text),
            "version": change.new_version or (row.version if row else 1),
            "applied_at": now,
            "applied_by": who,
            "git_revision": revision,
        }
        if row is None:
            values |= {"kind": change.kind, "name": change.name, "created_at": now, "created_by": who}
            view_id: int = connection.execute(insert_into(DEFINITIONS).values(**values)).inserted_primary_key[0]  # type: ignore[index]
        else:
            view_id = row.id
            connection.execute(update(DEFINITIONS).where(DEFINITIONS.c.id == row.id).values(**values))
        if change.kind in VIEW_KINDS:
            add_version(connection, view_id, values, promote=promote in (True, change.kind))
            view = connection.execute(select(DEFINITIONS).where(DEFINITIONS.c.id == view_id)).one()
            retire_superseded(connection, view, values["version"], self._database.place)
        record(
            connection,
            "add" if row is None else "change",
            change.kind,
            change.name,
            version=change.new_version,
            content_hash=values["content_hash"],
            git_revision=revision,
        )

    def _view(self, row: Any) -> RegisteredView:
        spec = self._decoded(row.spec, ViewSpec)
        return RegisteredView(
            row.id, row.version, spec, row.created_at, row.created_by, row.start or spec.start, row.git_revision
        )

    def _batch_view(self, row: Any) -> RegisteredBatchView:
        spec = self._decoded(row.spec, BatchViewSpec)
        return RegisteredBatchView(row.id, row.version, spec, row.created_at, row.created_by, row.git_revision)

    def _live(self, kind: Kind) -> Sequence[Any]:
        """Rows of the versions of views of a kind that are computed."""
        with self._database.transaction() as connection:
            return live_rows(connection, kind)

    def _decoded(self, text: str, kind: type[Any]) -> Any:
        return decoded(text, kind, self._database.place)


def _refuse_taken(change: Change, plan: Plan, stored: Stored) -> None:
    """Refuse a new version whose number another change took meanwhile, although the definition is what it was."""
    row = stored.get((change.kind, change.name))
    if row is None or change.new_version in (None, row.version, row.last + 1):
        return
    if row.live.get(fingerprint(plan.specs[change.kind, change.name])) == change.new_version:
        return
    raise RegistryError(f"{change.kind} '{change.name}' changed since the plan was made", hint="plan again")


def _rows_of(connection: Connection, kind: str) -> Sequence[Any]:
    """The definitions of a kind, by name."""
    query = select(DEFINITIONS).where(DEFINITIONS.c.kind == kind).order_by(DEFINITIONS.c.name)
    return connection.execute(query).all()

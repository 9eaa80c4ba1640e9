"""Versions of a view side by side: which are computed, and which of them readers get.

A new version is computed beside the one that is served, until it is promoted; the one before is computed still, so that
going back is at once, until it is retired. Each step is one transaction: a reader sees it whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, select, update

from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry.database import Database
from featurestore.registry.history import record, user
from featurestore.registry.records import SPEC_TYPES, content_hash, decoded, encoded
from featurestore.registry.services import repinned
from featurestore.registry.tables import DEFINITIONS, VIEW_VERSIONS
from featurestore.registry.version_rows import (
    add_version,
    find_version,
    find_view,
    last_version,
    read_route,
    retire_versions,
    services_pinning,
    set_route,
    version_fingerprint,
)
from featurestore.registry.views import Route, Start, ViewVersion


def split_reference(reference: str) -> tuple[str, int | None]:
    """ "view" or "view@2" as name and version. Raises UnknownViewError for a version that is no number."""
    name, at, version = reference.partition("@")
    if not at:
        return name, None
    if not version.isdecimal():
        raise UnknownViewError(f"'{reference}' names no version of a view", hint=f"write {name}@1")
    return name, int(version)


class Versions:
    """Promotes, rolls back, retires. All raise UnknownViewError for a view or version that is not there, and
    RegistryError for what would take from readers what they read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, name: str) -> list[ViewVersion]:
        """All versions that a view, stream or batch, ever had, the oldest first."""
        with self._database.transaction() as connection:
            view = find_view(connection, name)
            route = read_route(connection, view.id)
            query = select(VIEW_VERSIONS).where(VIEW_VERSIONS.c.view_id == view.id).order_by(VIEW_VERSIONS.c.version)
            return [
                ViewVersion(
                    name,
                    row.version,
                    row.created_at,
                    row.created_by,
                    row.git_revision,
                    row.content_hash,
                    row.retired_at,
                    row.retired_by,
                    "retired" if row.retired_at is not None else route.role(row.version),
                )
                for row in connection.execute(query)
            ]

    def promote(self, name: str, version: int, *, services: Collection[str] = (), note: str | None = None) -> Route:
        """Serve a version from now on; the one before stays computed.

        services: feature services whose pin of this view goes along.
        """
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            route = read_route(connection, view.id)
            find_version(connection, view, version)
            if route.served != version:
                set_route(connection, view.id, served=version, previous=route.served, canary=None, canary_share=None)
                record(connection, "promote", view.kind, name, version=version, note=note)
            self._repin(connection, view, version, services)
            return read_route(connection, view.id)

    def rollback(self, name: str, *, services: Collection[str] = (), note: str | None = None) -> Route:
        """Serve again what was served before the last promotion. services: as in `promote`."""
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            route = read_route(connection, view.id)
            if route.previous is None:
                raise RegistryError(
                    f"view '{name}' has no version to go back to: none before {route.served} is computed",
                    hint=f"see featurestore versions {name}",
                )
            find_version(connection, view, route.previous)
            # The one that goes stays computed as the previous one, so that a second thought is at once, too.
            set_route(connection, view.id, served=route.previous, previous=route.served, canary=None, canary_share=None)
            record(connection, "rollback", view.kind, name, version=route.previous, note=note)
            self._repin(connection, view, route.previous, services)
            return read_route(connection, view.id)

    def check_retire(self, name: str, version: int) -> None:
        """Whether `retire` would be refused, by its errors. Nothing is written."""
        with self._database.transaction() as connection:
            self._refuse_read(connection, find_view(connection, name), version)

    def retire(self, name: str, version: int, *, note: str | None = None) -> None:
        """Compute a version no longer. Its rows and files stay until `view purge`."""
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            route = self._refuse_read(connection, view, version)
            retire_versions(connection, view.id, [version])
            if version == route.previous:
                set_route(connection, view.id, previous=None)
            record(connection, "retire", view.kind, name, version=version, note=note)

    def set_canary(self, name: str, version: int, share: float, *, note: str | None = None) -> Route:
        """Serve a version to a share (above 0, below 1) of the entities, by their hash; to the rest as before."""
        if not 0 < share < 1:
            raise RegistryError(f"a canary's share is {share:g}", hint="give a part between 0 and 1, such as 0.1")
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            row = find_version(connection, view, version)
            served = read_route(connection, view.id).served
            if served == version:
                raise RegistryError(f"version {version} of view '{name}' is served to all already")
            specs = [
                decoded(one.spec, SPEC_TYPES[view.kind], self._database.place)
                for one in (row, find_version(connection, view, served))
            ]
            if specs[0].join_keys != specs[1].join_keys:
                raise RegistryError(
                    f"version {version} of view '{name}' has other join keys than version {served}",
                    hint="no request has both: let its readers ask for the version by name",
                )
            set_route(connection, view.id, canary=version, canary_share=share)
            record(connection, "canary", view.kind, name, version=version, note=note or f"{share:.1%} of the entities")
            return read_route(connection, view.id)

    def stop_canary(self, name: str, *, note: str | None = None) -> Route:
        """Serve all entities from the served version again."""
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            route = read_route(connection, view.id)
            if route.canary is None:
                raise RegistryError(f"view '{name}' has no canary")
            set_route(connection, view.id, canary=None, canary_share=None)
            record(connection, "canary_stop", view.kind, name, version=route.canary, note=note)
            return read_route(connection, view.id)

    def begin_anew(self, name: str, start: Start | None = None) -> int:
        """Give a view a new version with the same definition, which is served at once; returns it.

        start: where this version begins in the topic, None as the definition says. Version and id are part of all keys
        and paths, so nothing of the old version is touched. The old one is computed no longer. The caller holds the
        lock of the view's source.
        """
        with self._database.transaction(write=True) as connection:
            view = find_view(connection, name)
            route = read_route(connection, view.id)
            served = connection.execute(
                select(VIEW_VERSIONS).where(VIEW_VERSIONS.c.view_id == view.id, VIEW_VERSIONS.c.version == route.served)
            ).one()
            version = last_version(connection, view.id) + 1
            values = {"spec": served.spec, "content_hash": served.content_hash, "git_revision": served.git_revision}
            values |= {"applied_at": datetime.now(timezone.utc), "applied_by": user(), "version": version}
            add_version(connection, view.id, values, promote=True, start=start)
            retire_versions(connection, view.id, [route.served])
            set_route(connection, view.id, previous=None)
            if view.version == route.served:
                connection.execute(update(DEFINITIONS).where(DEFINITIONS.c.id == view.id).values(version=version))
            record(connection, "reset", view.kind, name, version=version)
            return version

    def _refuse_read(self, connection: Connection, view: Any, version: int) -> Route:
        """The route of a view one of whose versions nobody reads; RegistryError when somebody does."""
        name = view.name
        route = read_route(connection, view.id)
        row = find_version(connection, view, version)
        if version == route.served:
            raise RegistryError(
                f"version {version} of view '{name}' is served", hint=f"promote another one first: {name}@N"
            )
        if version == route.canary:
            raise RegistryError(
                f"version {version} of view '{name}' is the canary",
                hint=f"end that first: featurestore canary {name} --stop",
            )
        computed = version_fingerprint(row, view, self._database.place)
        pinned = services_pinning(connection, name, version, computed, self._database.place)
        if pinned:
            raise RegistryError(
                f"version {version} of view '{name}' is pinned by feature service {', '.join(pinned)}",
                hint=f"move it: featurestore promote {name}@{route.served} --service {pinned[0]}",
            )
        return route

    def _repin(self, connection: Connection, view: Any, version: int, services: Collection[str]) -> None:
        target = find_version(connection, view, version)
        spec = decoded(target.spec, SPEC_TYPES[view.kind], self._database.place)
        for service in services:
            query = select(DEFINITIONS).where(DEFINITIONS.c.kind == "feature_service", DEFINITIONS.c.name == service)
            row = connection.execute(query).first()
            if row is None:
                raise RegistryError(f"there is no feature service '{service}'")
            text = encoded(repinned(decoded(row.spec, FeatureServiceSpec, self._database.place), spec, version))
            values = {"spec": text, "content_hash": content_hash(text)}
            connection.execute(update(DEFINITIONS).where(DEFINITIONS.c.id == row.id).values(**values))
            record(connection, "repin", "feature_service", service, note=f"{view.name}@{version}")

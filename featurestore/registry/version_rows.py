"""Versions and routes of views in the registry's tables: the statements, within a caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy import insert as insert_into

from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.errors import UnknownViewError
from featurestore.registry.history import user
from featurestore.registry.plan import VIEW_KINDS
from featurestore.registry.records import SPEC_TYPES, decoded
from featurestore.registry.tables import DEFINITIONS, ROUTES, VIEW_VERSIONS
from featurestore.registry.views import Route, Start


def live_rows(connection: Connection, kind: str) -> Sequence[Any]:
    """Versions of views of a kind that are computed, by name and version, each with what is served of its view."""
    columns: list[Any] = [VIEW_VERSIONS, DEFINITIONS.c.id, DEFINITIONS.c.name, ROUTES.c.served]
    query = (
        select(*columns)
        .join_from(VIEW_VERSIONS, DEFINITIONS, VIEW_VERSIONS.c.view_id == DEFINITIONS.c.id)
        .join(ROUTES, ROUTES.c.view_id == DEFINITIONS.c.id)
        .where(DEFINITIONS.c.kind == kind, VIEW_VERSIONS.c.retired_at.is_(None))
        .order_by(DEFINITIONS.c.name, VIEW_VERSIONS.c.version)
    )
    return connection.execute(query).all()


def find_view(connection: Connection, name: str) -> Any:
    """The row of a view's definition, stream or batch. Raises UnknownViewError, which tells the nearest."""
    rows = connection.execute(select(DEFINITIONS).where(DEFINITIONS.c.kind.in_(VIEW_KINDS))).all()
    for row in rows:
        if row.name == name:
            return row
    near = get_close_matches(name, [row.name for row in rows], n=3)
    raise UnknownViewError(
        f"there is no view '{name}'", hint=f"did you mean {', '.join(near)}?" if near else "see featurestore status"
    )


def find_version(connection: Connection, view: Any, version: int) -> Any:
    """The row of a version that is computed. view: its definition's row. Raises UnknownViewError."""
    rows = connection.execute(
        select(VIEW_VERSIONS).where(VIEW_VERSIONS.c.view_id == view.id).order_by(VIEW_VERSIONS.c.version)
    ).all()
    live = [row for row in rows if row.retired_at is None]
    for row in live:
        if row.version == version:
            return row
    retired = any(row.version == version for row in rows)
    raise UnknownViewError(
        f"version {version} of view '{view.name}' {'is retired' if retired else 'does not exist'}",
        hint=f"computed are {', '.join(f'{view.name}@{row.version}' for row in live)}",
    )


def add_version(
    connection: Connection, view_id: int, values: Mapping[str, Any], *, promote: bool, start: Start | None = None
) -> None:
    """Make the version that a definition has from now on, or write what is told about one that there is.

    values: as of the definition's row. A version that was never served and that no service pins is retired: the new
    one takes its place.
    """
    version = values["version"]
    told = {name: values[name] for name in ("spec", "content_hash", "git_revision")}
    mine = (VIEW_VERSIONS.c.view_id == view_id, VIEW_VERSIONS.c.version == version)
    if connection.execute(select(VIEW_VERSIONS.c.version).where(*mine)).first():
        connection.execute(update(VIEW_VERSIONS).where(*mine).values(**told))
    else:
        made = {"created_at": values["applied_at"], "created_by": values["applied_by"], "start": start}
        row = {"view_id": view_id, "version": version, **told, **made}
        connection.execute(insert_into(VIEW_VERSIONS).values(**row))
    route = connection.execute(select(ROUTES).where(ROUTES.c.view_id == view_id)).first()
    if route is None:
        first = {"view_id": view_id, "served": version, "changed_at": values["applied_at"], "changed_by": user()}
        connection.execute(insert_into(ROUTES).values(**first))
    elif promote and route.served != version:
        set_route(connection, view_id, served=version, previous=route.served, canary=None, canary_share=None)


def read_route(connection: Connection, view_id: int) -> Route:
    """Which version of a view readers get."""
    row = connection.execute(select(ROUTES).where(ROUTES.c.view_id == view_id)).one()
    return Route(row.served, row.changed_at, row.changed_by, row.previous, row.canary, row.canary_share)


def set_route(connection: Connection, view_id: int, **values: Any) -> None:
    """Change some of a route's columns."""
    values |= {"changed_at": datetime.now(timezone.utc), "changed_by": user()}
    connection.execute(update(ROUTES).where(ROUTES.c.view_id == view_id).values(**values))


def retire_versions(connection: Connection, view_id: int, versions: Iterable[int]) -> None:
    """Mark versions as no longer computed."""
    connection.execute(
        update(VIEW_VERSIONS)
        .where(VIEW_VERSIONS.c.view_id == view_id, VIEW_VERSIONS.c.version.in_(list(versions)))
        .values(retired_at=datetime.now(timezone.utc), retired_by=user())
    )


def version_fingerprint(row: Any, view: Any, place: str) -> str:
    """What a version computes. row: of the version; view: of its definition."""
    return fingerprint(decoded(row.spec, SPEC_TYPES[view.kind], place))


def retire_superseded(connection: Connection, view: Any, newest: int, place: str) -> list[int]:
    """Retire versions that were never promoted and have been replaced by `newest`; returns them.

    view: its definition's row. Kept are the served, the previous and the canary version, and what a service pins.
    """
    route = read_route(connection, view.id)
    kept = {newest, route.served, route.previous, route.canary}
    rows = connection.execute(
        select(VIEW_VERSIONS).where(VIEW_VERSIONS.c.view_id == view.id, VIEW_VERSIONS.c.retired_at.is_(None))
    ).all()
    superseded = [
        row.version
        for row in rows
        if row.version not in kept
        and not services_pinning(connection, view.name, row.version, version_fingerprint(row, view, place), place)
    ]
    retire_versions(connection, view.id, superseded)
    return superseded


def last_version(connection: Connection, view_id: int) -> int:
    """The largest version that a view ever had."""
    query = select(func.max(VIEW_VERSIONS.c.version)).where(VIEW_VERSIONS.c.view_id == view_id)
    return int(connection.execute(query).scalar_one())


def services_pinning(connection: Connection, view: str, version: int, computed: str, place: str) -> list[str]:
    """Feature services that read this version of a view, sorted. computed: its fingerprint.

    A service reads the version that it pins, or another that computes the same.
    """
    rows = connection.execute(select(DEFINITIONS).where(DEFINITIONS.c.kind == "feature_service"))
    specs = [decoded(row.spec, FeatureServiceSpec, place) for row in rows]
    return sorted(
        spec.name
        for spec in specs
        for pin in spec.views
        if pin.name == view and (pin.version == version or pin.fingerprint == computed)
    )

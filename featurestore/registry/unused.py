"""Features that nobody reads: no request and no training set since an instant, and no feature service holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone

from sqlalchemy import select

from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, ViewSpec
from featurestore.registry.database import Database
from featurestore.registry.discovery import Definition, read_definitions
from featurestore.registry.records import SPEC_TYPES, decoded
from featurestore.registry.tables import DEFINITIONS, VIEW_VERSIONS
from featurestore.registry.usage import FeatureReads

Instants = Mapping[tuple[str, str], datetime]
"""By (view, feature)."""


@dataclass(frozen=True)
class UnusedView:
    """A view with features that nobody reads. features: in order, with their last read, None when none is known."""

    view: ViewSpec | BatchViewSpec
    features: Mapping[str, datetime | None]

    @property
    def whole(self) -> bool:
        """Whether these are all of the view's features, so that the view may go."""
        return len(self.features) == len(self.view.features)


@dataclass(frozen=True)
class Unused:
    """The answer. since: reads from then on were looked for, UTC. recorded_since: the first day of which any read is
    known; None when none is, and then nothing is said of any feature."""

    since: datetime
    recorded_since: date | None
    views: tuple[UnusedView, ...]

    @property
    def is_covered(self) -> bool:
        """Whether reads were recorded from `since` on; else the answer holds from recorded_since on."""
        # On its first day recording began at some hour.
        return self.recorded_since is not None and self.recorded_since < self.since.astimezone(timezone.utc).date()


def find_unused(database: Database, since: datetime) -> Unused:
    """What nobody read since an instant, and no feature service holds. Raises RegistryError.

    Features that were applied later than that are left out: nobody may have had the time to read them.
    """
    reads = FeatureReads(database)
    recorded_since = reads.recorded_since()
    if recorded_since is None:
        return Unused(since, None, ())
    definitions = read_definitions(database, ("view", "batch_view", "feature_service"))
    return Unused(since, recorded_since, unused_views(definitions, reads.last_reads(), applied_first(database), since))


def unused_views(
    definitions: Iterable[Definition], last_reads: Instants, first_applied: Instants, since: datetime
) -> tuple[UnusedView, ...]:
    """Views with features that were applied before `since`, not read since, and that no feature service holds."""
    definitions = list(definitions)
    services = [one.spec for one in definitions if isinstance(one.spec, FeatureServiceSpec)]
    held = {(part.name, feature) for service in services for part in service.views for feature in part.features}

    def is_unused(key: tuple[str, str]) -> bool:
        last = last_reads.get(key)
        return key not in held and first_applied[key] < since and (last is None or last < since)

    found = []
    for one in definitions:
        names = [feature.spec.name for feature in one.features if is_unused((one.name, feature.spec.name))]
        if names and isinstance(one.spec, ViewSpec | BatchViewSpec):
            found.append(UnusedView(one.spec, {name: last_reads.get((one.name, name)) for name in names}))
    return tuple(found)


def applied_first(database: Database) -> dict[tuple[str, str], datetime]:
    """When the first version of a view that has a feature was applied, by (view, feature)."""
    query = (
        select(DEFINITIONS.c.kind, DEFINITIONS.c.name, VIEW_VERSIONS.c.spec, VIEW_VERSIONS.c.created_at)
        .join_from(VIEW_VERSIONS, DEFINITIONS, VIEW_VERSIONS.c.view_id == DEFINITIONS.c.id)
        .order_by(VIEW_VERSIONS.c.version)
    )
    found: dict[tuple[str, str], datetime] = {}
    with database.transaction() as connection:
        for row in connection.execute(query):
            for feature in decoded(row.spec, SPEC_TYPES[row.kind], database.place).features:
                found.setdefault((row.name, feature.name), row.created_at)
    return found

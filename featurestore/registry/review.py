"""A plan as it is looked at before it is applied: classes of its changes, what they reach, and what must not happen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from sqlalchemy import func, select

from featurestore.errors import BreakingChangeError
from featurestore.registry.changes import JudgedChange, judge_changes
from featurestore.registry.database import Database
from featurestore.registry.impact import Readers, reached_features, reached_readers
from featurestore.registry.lineage import Node, build_lineage
from featurestore.registry.models import Models
from featurestore.registry.plan import Plan
from featurestore.registry.readers import deployed_lineage
from featurestore.registry.store import Registry
from featurestore.registry.tables import FEATURE_READS
from featurestore.registry.usage import SHELL


@dataclass(frozen=True)
class Review:
    """A plan with the classes of its changes.

    reached: by changed source, deployed features that its change reaches; readers: who reads these.
    """

    plan: Plan
    changes: tuple[JudgedChange, ...]
    reached: dict[str, tuple[str, ...]]
    readers: dict[str, Readers]

    @property
    def breaking(self) -> tuple[str, ...]:
        """Why it breaks what is in use, each reason once."""
        return tuple(dict.fromkeys(reason for change in self.changes for reason in change.breaking))

    def refuse_breaking(self) -> None:
        """Raise BreakingChangeError, which names each reason, when something breaks."""
        if self.breaking:
            raise BreakingChangeError(
                "these changes break what is in use:\n" + "\n".join(f"  {reason}" for reason in self.breaking),
                hint="keep what is in use beside the new, under another name; or say --allow-breaking",
            )

    def render(self) -> str:
        """The plan as lines of text, with the class of each field that asks something of others, and why."""
        return self.plan.render(
            {
                (one.change.kind, one.change.name): [(field.severity, field.reason) for field in one.fields]
                for one in self.changes
            }
        )


def review(registry: Registry, plan: Plan, in_use_days: int) -> Review:
    """Look at a plan of this registry. in_use_days: so long after its last read a feature counts as in use."""
    views = [view.spec for view in registry.views()]
    batch_views = [view.spec for view in registry.batch_views()]
    sources = registry.sources()
    readers: dict[str, tuple[str, ...]] = {}
    if any(change.kind == "source" for change in plan.changed):
        graph = build_lineage(sources, views, batch_views)
        for source in sources.values():
            for column in source.columns:
                node = Node("column", f"{source.name}.{column.name}")
                edges = graph.edges_from(node, "downstream") if node in graph.inputs else ()
                readers[node.name] = tuple(sorted({e.target.name for e in edges if e.target.kind == "feature"}))
    users = {name: list(found) for name, found in in_use(registry, in_use_days).items()}
    reached = reached_features(plan, sources.values(), views, batch_views)
    through = reached_readers(plan, deployed_lineage(registry.database)) if reached else {}
    return Review(plan, judge_changes(plan, users, readers), reached, through)


def in_use(registry: Registry, days: int) -> dict[str, list[str]]:
    """By "view:feature", who reads it: feature services with their models, and consumers within so many days."""
    users: dict[str, list[str]] = {}
    models: dict[str, list[str]] = {}
    for link in Models(registry.database).find():
        models.setdefault(link.service.name, []).append(link.reference)
    for name, service in registry.feature_services().items():
        told = f"feature service {name}"
        if name in models:
            told += f" (model {', '.join(models[name])})"
        for reference in service.spec.references:
            users.setdefault(reference, []).append(told)
    for view, feature, consumer, last in _reads(registry.database, days):
        told = f"read by {consumer or 'somebody'} on {last:%Y-%m-%d}"
        users.setdefault(f"{view}:{feature}", []).append(told)
    return users


def _reads(database: Database, days: int) -> list[tuple[str, str, str, datetime]]:
    columns = (FEATURE_READS.c.view, FEATURE_READS.c.feature, FEATURE_READS.c.consumer)
    query = (
        select(*columns, func.max(FEATURE_READS.c.last_read_at).label("last"))
        .where(FEATURE_READS.c.last_read_at >= datetime.now(timezone.utc) - timedelta(days=days))
        # Who looks at a value from the shell breaks by no change.
        .where(FEATURE_READS.c.consumer != SHELL)
        .group_by(*columns)
        .order_by(*columns)
    )
    with database.transaction() as connection:
        return [(row.view, row.feature, row.consumer, row.last) for row in connection.execute(query)]

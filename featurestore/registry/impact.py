"""What a change of a source reaches: the features that are computed from the columns that change."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore.definitions.specs import BatchViewSpec, SourceSpec, ViewSpec
from featurestore.registry.lineage import Node, build_lineage
from featurestore.registry.plan import FieldChange, Plan

TOLD_ONLY = {"columns", "description", "owner", "schema", "tags"}
"""Parts of a source that no feature depends on; of the columns each is looked at by itself."""


def reached_features(
    plan: Plan, sources: Iterable[SourceSpec], views: Iterable[ViewSpec], batch_views: Iterable[BatchViewSpec] = ()
) -> dict[str, tuple[str, ...]]:
    """By changed source, the deployed features ("view:feature", sorted) that its change reaches.

    sources, views, batch_views: as they are deployed. A changed column reaches what reads it, as value, filter, key or
    time; a change of the topic, the format, lateness and the like reaches every feature of the source.
    """
    if not any(change.kind == "source" for change in plan.changed):
        return {}
    graph = build_lineage({source.name: source for source in sources}, views, batch_views)
    reached: dict[str, tuple[str, ...]] = {}
    for change in plan.changed:
        if change.kind != "source":
            continue
        edges = set()
        for node in _changed(change.name, change.fields):
            if node in graph.inputs:
                edges.update(graph.edges_from(node, "downstream"))
        reached[change.name] = tuple(sorted({edge.target.name for edge in edges if edge.target.kind == "feature"}))
    return reached


def _changed(source: str, fields: Iterable[FieldChange]) -> set[Node]:
    nodes = set()
    for change in fields:
        part, _, rest = change.path.partition(".")
        if part == "columns" and rest:
            # "columns.order" tells of an order that no feature depends on.
            nodes.add(Node("column", f"{source}.{rest.partition('.')[0]}"))
        elif part not in TOLD_ONLY:
            nodes.add(Node("source", source))
    return nodes

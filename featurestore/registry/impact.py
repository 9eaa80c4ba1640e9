"""What a change of a source reaches: features that are computed from the columns that change, and who reads these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from featurestore.definitions.specs import BatchViewSpec, SourceSpec, ViewSpec
from featurestore.registry.lineage import Lineage, Node, build_lineage
from featurestore.registry.plan import FieldChange, Plan

TOLD_ONLY = {"columns", "description", "owner", "schema", "tags"}
"""Parts of a source that no feature depends on; of the columns each is looked at by itself."""


@dataclass(frozen=True)
class Readers:
    """Feature services, and models as "name/version"; sorted."""

    services: tuple[str, ...]
    models: tuple[str, ...]


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
    return {name: _names(nodes, "feature") for name, nodes in _reached(plan, graph).items()}


def reached_readers(plan: Plan, graph: Lineage) -> dict[str, Readers]:
    """By changed source, who reads the features that its change reaches.

    graph: `readers.deployed_lineage`, which has services, models and the versions of views that these read.
    """
    return {
        name: Readers(_names(nodes, "service"), _names(nodes, "model")) for name, nodes in _reached(plan, graph).items()
    }


def _reached(plan: Plan, graph: Lineage) -> dict[str, set[Node]]:
    reached: dict[str, set[Node]] = {}
    for change in plan.changed:
        if change.kind == "source":
            begins = [node for node in _changed(change.name, change.fields) if node in graph.inputs]
            edges = (edge for node in begins for edge in graph.edges_from(node, "downstream"))
            reached[change.name] = {edge.target for edge in edges}
    return reached


def _names(nodes: Iterable[Node], kind: str) -> tuple[str, ...]:
    return tuple(sorted(node.name for node in nodes if node.kind == kind))


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

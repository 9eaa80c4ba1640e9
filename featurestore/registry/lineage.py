"""Lineage: which columns a feature is computed from, and what a topic or column reaches, found in stored specs.

The graph runs topic -> source -> column -> feature -> view, and from the feature on to what reads it: service -> model
(`readers.py`). It is made of specs alone, so it needs neither polars nor the author's modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from featurestore.definitions.specs import BatchViewSpec, FileSourceSpec, SourceSpec, ViewSpec
from featurestore.errors import DefinitionError

Kind = Literal["topic", "source", "column", "feature", "view", "service", "model"]
Direction = Literal["upstream", "downstream"]

# In this order a name is looked up: a topic before the source of the same name, for it holds more.
_KINDS: tuple[Kind, ...] = ("view", "feature", "topic", "source", "column", "service", "model")

# Every JSON string of a canonical text as a whole, so that what looks like a column inside a literal is not one.
_STRINGS = re.compile(r'(\bcol\()?("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, order=True)
class Node:
    """A thing in the graph. name: as users write it: "payments", "payments.amount", "activity:amount_sum_1h"."""

    kind: Kind
    name: str


@dataclass(frozen=True, order=True)
class Edge:
    """`target` is made from `source`. role: "value", "where", "key" or "time" from a column to a feature, else ""."""

    source: Node
    target: Node
    role: str = ""
    expression: str = ""


@dataclass
class Lineage:
    """A graph of nodes, without circles."""

    outputs: dict[Node, list[Edge]] = field(default_factory=dict)
    inputs: dict[Node, list[Edge]] = field(default_factory=dict)

    def add(self, source: Node, target: Node, role: str = "", expression: str = "") -> None:
        """Say that `target` is made from `source`."""
        edge = Edge(source, target, role, expression)
        for node in (source, target):
            self.outputs.setdefault(node, [])
            self.inputs.setdefault(node, [])
        self.outputs[source].append(edge)
        self.inputs[target].append(edge)

    def next_to(self, node: Node, direction: Direction) -> dict[Node, list[Edge]]:
        """Neighbours of a node in one direction, sorted, with the edges to each."""
        found: dict[Node, list[Edge]] = {}
        for edge in sorted((self.inputs if direction == "upstream" else self.outputs)[node]):
            found.setdefault(edge.source if direction == "upstream" else edge.target, []).append(edge)
        return found

    def starts(self, node: Node, direction: Direction) -> list[Node]:
        """Where to look from: a view is read by way of its features, so downstream of it is what is downstream of
        those that anything else reads; of other nodes, the node itself."""
        if node.kind != "view" or direction == "upstream":
            return [node]
        features = sorted({edge.source for edge in self.inputs[node]})
        return [one for one in features if any(edge.target != node for edge in self.outputs[one])]

    def edges_from(self, node: Node, direction: Direction) -> list[Edge]:
        """Every edge that is reached from a node in one direction, each once, sorted."""
        waiting = self.starts(node, direction)
        seen, edges = {node, *waiting}, set()
        while waiting:
            for neighbour, found in self.next_to(waiting.pop(), direction).items():
                if neighbour == node:
                    continue
                edges.update(found)
                if neighbour not in seen:
                    seen.add(neighbour)
                    waiting.append(neighbour)
        return sorted(edges)

    def find(self, name: str) -> Node:
        """The node that a user means; of a topic and a source of one name, the topic. Raises DefinitionError."""
        for kind in _KINDS:
            node = Node(kind, name)
            if node in self.inputs:
                return node
        topic, _, column = name.rpartition(".")
        columns = [
            node
            for edge in self.outputs.get(Node("topic", topic), ())
            if (node := Node("column", f"{edge.target.name}.{column}")) in self.inputs
        ]
        if len(columns) == 1:
            return columns[0]
        if columns:
            raise DefinitionError(
                f"lineage: several sources read topic '{topic}'",
                hint=f"name one of {', '.join(node.name for node in columns)}",
            )
        raise DefinitionError(
            f"lineage: nothing is called '{name}'",
            hint="name an applied view, view:feature, source, source.column, topic, topic.column, service, or "
            "model/version",
        )


def columns_of(expression: str) -> tuple[str, ...]:
    """Columns that an expression's canonical text reads, sorted."""
    found = {json.loads(text) for column, text in _STRINGS.findall(expression) if column}
    return tuple(sorted(found))


def build_lineage(
    sources: Mapping[str, SourceSpec], views: Iterable[ViewSpec], batch_views: Iterable[BatchViewSpec] = ()
) -> Lineage:
    """The graph of definitions. sources: by name, at least those that the views read."""
    lineage = Lineage()
    for source in sources.values():
        _add_source(lineage, source)
    for view in views:
        add_view(lineage, view, sources[view.source], view.name)
    for batch_view in batch_views:
        add_batch_view(lineage, batch_view, batch_view.name)
    return lineage


def mermaid(edges: Iterable[Edge]) -> str:
    """A Mermaid flowchart of edges."""
    edges = list(edges)
    nodes = sorted({node for edge in edges for node in (edge.source, edge.target)})
    ids = {node: f"n{position}" for position, node in enumerate(nodes)}
    lines = ["flowchart LR"]
    lines += [f'  {ids[node]}["{node.kind} {node.name.replace(chr(34), "#quot;")}"]' for node in nodes]
    for edge in edges:
        lines.append(f"  {ids[edge.source]} -->{f'|{edge.role}|' if edge.role else ''} {ids[edge.target]}")
    return "\n".join(lines)


def _add_source(lineage: Lineage, source: SourceSpec) -> None:
    node = Node("source", source.name)
    lineage.add(Node("topic", source.topic), node)
    for column in source.columns:
        lineage.add(node, Node("column", f"{source.name}.{column.name}"))


def add_view(lineage: Lineage, view: ViewSpec, source: SourceSpec, label: str) -> None:
    """Add a stream view whose source is in the graph. label: its name there, "view" or "view@2"."""
    common = [("time", source.event_time, "")]
    common += [("key", key.name, "") for key in view.join_keys]
    common += [("where", column, view.where or "") for column in columns_of(view.where or "")]
    derive = dict(view.derive)
    for feature in view.features:
        node = Node("feature", f"{label}:{feature.name}")
        for role, column, expression in (*common, *_values(feature.column, derive)):
            lineage.add(Node("column", f"{source.name}.{column}"), node, role, expression)
        lineage.add(node, Node("view", label))


def _values(column: str | None, derive: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    if column is not None and column in derive:
        for name in columns_of(derive[column]):
            yield "value", name, derive[column]
    elif column is not None:
        yield "value", column, ""


def add_batch_view(lineage: Lineage, view: BatchViewSpec, label: str) -> None:
    """Add a batch view and its source. label: as for `add_view`."""
    # A query's URL may hold a password: a query is named after its view.
    source = Node("source", view.source.path if isinstance(view.source, FileSourceSpec) else f"{view.name} query")
    columns = [("time", view.source.event_time), *(("key", key.name) for key in view.join_keys)]
    if view.source.created_time is not None:
        columns.append(("time", view.source.created_time))
    for column in dict.fromkeys([*(name for _, name in columns), *(feature.name for feature in view.features)]):
        if (node := Node("column", f"{source.name}.{column}")) not in lineage.inputs:
            lineage.add(source, node)
    for feature in view.features:
        node = Node("feature", f"{label}:{feature.name}")
        for role, column in (*columns, ("value", feature.name)):
            lineage.add(Node("column", f"{source.name}.{column}"), node, role)
        lineage.add(node, Node("view", label))

"""`featurestore lineage`: what a feature or model is made from, and what a topic or column reaches."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import WIDE, print_json, print_line

if TYPE_CHECKING:
    from rich.tree import Tree

    from featurestore.registry.lineage import Direction, Lineage, Node

EXAMPLES = (
    "Examples: [bold]featurestore lineage card_activity[/bold]   "
    "[bold]featurestore lineage transactions.amount --downstream[/bold]   "
    "[bold]featurestore lineage card_activity --mermaid[/bold]   "
    "[bold]featurestore lineage fraud/3 --upstream[/bold]"
)


def lineage(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A view, view:feature, source, source.column, topic, topic.column, service or model/version.",
        ),
    ],
    upstream: Annotated[bool, typer.Option("--upstream", help="Only what it is made from.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="Only what is made from it.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A Mermaid flowchart.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what an applied view or feature is computed from, and what a topic or column reaches.

    It ends with what reads the features: feature services, and the models that are linked to them. A version of a view
    that is not the served one, but is read, is named with its number: card_activity@1.
    """
    from featurestore.registry import Registry
    from featurestore.registry import lineage as graphs
    from featurestore.registry.readers import deployed_lineage

    if json and mermaid:
        raise typer.BadParameter("it is --json or --mermaid", param_hint="--mermaid")
    settings = load_settings(data_dir)
    require_data_dir(settings)
    registry = Registry.open(settings.registry_place, create=False)
    try:
        graph = deployed_lineage(registry.database)
    finally:
        registry.close()
    node = graph.find(name)
    directions: list[Direction] = []
    if upstream or not downstream:
        directions.append("upstream")
    if downstream or not upstream:
        directions.append("downstream")
    edges = {direction: graph.edges_from(node, direction) for direction in directions}
    if json:
        document: dict[str, object] = {"node": node}
        print_json(document | {str(direction): found for direction, found in edges.items()})
    elif mermaid:
        print_line(graphs.mermaid(sorted({edge for found in edges.values() for edge in found})))
    else:
        for direction in directions:
            if edges[direction]:
                _print_tree(graph, node, direction)


def _print_tree(graph: "Lineage", node: "Node", direction: "Direction") -> None:
    from rich.console import Console
    from rich.tree import Tree

    tree = Tree(f"{node.kind} {node.name} ({direction})")
    for start in graph.starts(node, direction):
        branch = tree if start == node else tree.add(f"{start.kind} {start.name}")
        _grow(branch, graph, start, direction, root=node)
    width = None if sys.stdout.isatty() else WIDE
    Console(file=sys.stdout, markup=False, highlight=False, width=width).print(tree)


def _grow(tree: "Tree", graph: "Lineage", node: "Node", direction: "Direction", root: "Node") -> None:
    for neighbour, edges in graph.next_to(node, direction).items():
        if neighbour == root:
            continue
        roles = ", ".join(dict.fromkeys(edge.role for edge in edges if edge.role))
        branch = tree.add(f"{neighbour.kind} {neighbour.name}{f' ({roles})' if roles else ''}")
        _grow(branch, graph, neighbour, direction, root)

"""`featurestore list|search|history`: what is deployed, and what was done to it."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from featurestore.registry.database import Database
    from featurestore.registry.discovery import Definition, Feature
    from featurestore.registry.plan import Kind

LIST_EXAMPLES = (
    "Examples: [bold]featurestore list[/bold]   [bold]featurestore list features --pii direct[/bold]   "
    "[bold]featurestore list views --owner risk@example.com --tag tier=critical[/bold]   "
    "[bold]featurestore list --namespace risk[/bold]"
)
SEARCH_EXAMPLES = "Examples: [bold]featurestore search amount 1h[/bold]   [bold]featurestore search fraud --json[/bold]"
HISTORY_EXAMPLES = (
    "Examples: [bold]featurestore history[/bold]   [bold]featurestore history card_activity --limit 10[/bold]"
)

Listed = Literal["entities", "sources", "views", "features", "services"]


def list_definitions(
    kind: Annotated[
        Listed | None, typer.Argument(metavar="[entities|sources|views|features|services]", show_default=False)
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Only what this owner has.", show_default=False)] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="NAME[=VALUE]", help="Only what has this tag.", show_default=False)
    ] = None,
    pii: Annotated[
        str | None,
        typer.Option(
            metavar="none|indirect|direct|sensitive",
            help="Only features of this PII class, and views that have such.",
            show_default=False,
        ),
    ] = None,
    deprecated: Annotated[
        bool, typer.Option("--deprecated", help="Only deprecated features, and views that have such.")
    ] = False,
    namespace: Annotated[
        str | None,
        typer.Option(help="Only what is in it; default: names without one.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List what is deployed: everything but the single features, or one kind.

    Owner and tags of a feature are those of its view.
    """
    from featurestore.registry.discovery import PII_CLASSES, Filter

    if pii is not None and pii not in PII_CLASSES:
        raise typer.BadParameter(f"it is {', '.join(PII_CLASSES)}", param_hint="--pii")
    if kind in ("entities", "sources", "services") and (pii is not None or deprecated):
        raise typer.BadParameter(f"{kind} have neither; list features or views", param_hint="--pii, --deprecated")
    wanted = Filter(owner, tag, pii, deprecated, namespace)
    kinds: dict[Listed | None, tuple[Kind, ...]] = {
        None: (),
        "entities": ("entity",),
        "sources": ("source",),
        "views": ("view", "batch_view"),
        "features": ("view", "batch_view"),
        "services": ("feature_service",),
    }
    definitions = _definitions(data_dir, kinds[kind])
    if kind == "features":
        features = wanted.features(definitions)
        _show([_feature_row(one) for one in features], json, "feature")
    else:
        _show([_row(one) for one in definitions if wanted.accepts(one.spec)], json, "name")


def search(
    words: Annotated[
        list[str], typer.Argument(metavar="WORD…", help="All of them must be found; case does not count.")
    ],
    limit: Annotated[int, typer.Option(min=1, help="Show the best so many.")] = 20,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Search names, descriptions, owners, tags and columns of everything that is deployed, the best first.

    A name counts most, then columns, tags and owner, then descriptions.
    """
    from featurestore.registry.search import nearest_words
    from featurestore.registry.search import search as find

    definitions = _definitions(data_dir, ())
    found = find(definitions, words)
    if json:
        print_json({"total": len(found), "found": found[:limit]})
        return
    if not found:
        near = nearest_words(definitions, words)
        print_line(f"nothing has {' and '.join(words)}" + (f"; did you mean {', '.join(near)}?" if near else ""))
        return
    rows = [[one.name, one.kind.replace("_", " "), one.owner, one.description] for one in found[:limit]]
    print_table(["name", "kind", "owner", "description"], rows)
    if len(found) > limit:
        print_note(f"{len(found):,} in all; --limit {len(found)} shows them")


def history(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A definition; without it, all.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what was done to definitions and their versions, the newest first: when, what, by whom."""
    from featurestore.registry.history import history as read

    database = _open(data_dir)
    try:
        found = read(database, name, limit)
    finally:
        database.close()
    if json:
        print_json(found)
        return
    if not found:
        print_line("nothing was done" + (f" to anything called '{name}'" if name else ""))
        return
    rows = [
        [
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            one.action.replace("_", " "),
            one.kind.replace("_", " "),
            one.name if one.version is None else f"{one.name}@{one.version}",
            one.by,
            (one.git_revision or "")[:12],
            one.note or "",
        ]
        for one in found
    ]
    print_table(["at", "action", "kind", "name", "by", "git", "note"], rows)


def _open(data_dir: DataDir) -> "Database":
    from featurestore.registry.database import Database

    return Database.open(load_settings(data_dir).registry_place, create=False)


def _definitions(data_dir: DataDir, kinds: "tuple[Kind, ...]") -> "list[Definition]":
    from featurestore.registry.discovery import read_definitions

    database = _open(data_dir)
    try:
        return read_definitions(database, kinds)
    finally:
        database.close()


def _row(definition: "Definition") -> dict[str, object]:
    from featurestore.registry.discovery import kind_text

    spec = definition.spec
    row: dict[str, object] = {"name": spec.name, "kind": kind_text(definition.kind), "owner": spec.owner}
    if definition.features:
        row["features"] = len(definition.features)
    return {**row, "tags": spec.tags, "description": spec.description}


def _feature_row(feature: "Feature") -> dict[str, object]:
    told = feature.spec.metadata
    return {
        "feature": feature.reference,
        "computed": feature.computed,
        "type": feature.spec.output_dtype,
        "unit": told.unit,
        "pii": told.pii,
        "deprecated": None if told.deprecated is None else told.deprecated.since,
        "owner": feature.view.owner,
        "tags": feature.view.tags,
        "description": told.description,
    }


def _show(rows: list[dict[str, object]], json: bool, key: str) -> None:
    if json:
        print_json(rows)
        return
    if not rows:
        print_line("nothing deployed is like that")
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    # A column in which nobody says anything is no column.
    columns = [name for name in columns if name == key or any(row.get(name) not in (None, "", {}) for row in rows)]
    print_table(columns, [[_text(row.get(name)) for name in columns] for row in rows])


def _text(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" if text else name for name, text in value.items())
    return "" if value is None else value

"""`featurestore plan`: what `apply` would change in the registry."""

import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.git_revision import git_revision
from featurestore.cli.options import DataDir, Json, Modules, load_settings
from featurestore.cli.output import print_json, print_line, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.cli.version_cost import BatchVersionCost, VersionCost
    from featurestore.config import Settings
    from featurestore.definitions.resolve import ResolvedDefinitions
    from featurestore.registry import Plan, Registry
    from featurestore.registry.changes import JudgedChange
    from featurestore.registry.review import Review

EXAMPLES = (
    "Examples: [bold]featurestore plan pipelines.transactions[/bold]   "
    "[bold]featurestore plan pipelines/transactions.py --detailed-exitcode --json[/bold]"
)


def _given(revision: str | None) -> str | None:
    # An empty one is a variable of CI that is not set; what is checked out would be recorded in its place.
    if revision is not None and not revision.strip():
        raise typer.BadParameter("it is empty")
    return revision


Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        callback=_given,
        help="Git revision of the definitions; else what is checked out.",
        show_default=False,
    ),
]


def plan(
    modules: Modules,
    detailed_exitcode: Annotated[
        bool,
        typer.Option("--detailed-exitcode", help="Exit with 0: no changes, 2: changes, 3: some of them breaking."),
    ] = False,
    revision: Revision = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Check definitions and show what apply would change in the registry, and what that asks of others.

    Changes are compatible, re-aggregating (values change: a version of its own fills beside the served one) or breaking
    (a reader gets an error, nothing, or another type). Writes nothing.
    """
    from featurestore.errors import NoRegistryError
    from featurestore.registry import Registry
    from featurestore.registry.review import review

    settings = load_settings(data_dir)
    resolved = resolve_modules(modules)
    check_owners(settings, resolved)
    tell_deprecated(resolved)
    check_batch_sources(resolved)
    with tempfile.TemporaryDirectory(prefix="featurestore-plan-") as empty:
        try:
            registry = Registry.open(settings.registry_place, create=False)
        except NoRegistryError:
            # An empty one elsewhere stands for it: a plan writes nothing.
            registry = Registry.open(Path(empty) / "registry.db")
        try:
            reviewed = review(registry, registry.plan(resolved), settings.registry.in_use_days)
            costs = _costs(settings, reviewed, registry)
            tell_similar(registry, reviewed.plan)
        finally:
            registry.close()
    show_review(
        reviewed,
        costs,
        revision or git_revision(Path.cwd(), [source.schema for source in resolved.sources.values()]),
        json,
    )
    if detailed_exitcode and reviewed.plan.has_changes:
        raise typer.Exit(3 if reviewed.breaking else 2)


def show_review(
    reviewed: "Review", costs: "Sequence[VersionCost | BatchVersionCost]", revision: str | None, json: bool
) -> None:
    """Print a plan with its classes, what the changes of its sources reach, and what second versions cost."""
    if json:
        print_json(
            {
                "has_changes": reviewed.plan.has_changes,
                "breaking": reviewed.breaking,
                "changes": [_document(one) for one in reviewed.changes],
                "reached": reviewed.reached,
                "readers": reviewed.readers,
                "costs": costs,
                "git_revision": revision,
            }
        )
        return
    print_line(reviewed.render())
    for source, features in reviewed.reached.items():
        print_line(f"  the change of source {source} reaches {'' if features else 'no feature'}")
        for view, names in groupby((feature.partition(":") for feature in features), key=lambda parts: parts[0]):
            print_line(f"      {view}: {', '.join(name for _, _, name in names)}")
    for source, readers in reviewed.readers.items():
        told = [f"feature service {name}" for name in readers.services] + [f"model {name}" for name in readers.models]
        if told:
            print_line(f"  the change of source {source} reaches {', '.join(told)}")
    for cost in costs:
        print_line(f"  {cost.text()}")
    if revision is not None and reviewed.plan.has_changes:
        print_line(f"  git revision {revision}")


def _document(judged: "JudgedChange") -> dict[str, object]:
    fields = [
        {
            "path": field.path,
            "before": field.before,
            "after": field.after,
            "class": judgement.severity,
            "reason": judgement.reason,
        }
        for field, judgement in zip(judged.change.fields, judged.fields, strict=False)
    ]
    change = judged.change
    found: dict[str, object] = {"action": change.action, "kind": change.kind, "name": change.name}
    return {**found, "class": judged.severity, "new_version": change.new_version, "fields": fields}


def _costs(settings: "Settings", reviewed: "Review", registry: "Registry") -> "list[VersionCost | BatchVersionCost]":
    """What second versions take; a store that can't be read does not keep a plan from being shown."""
    from featurestore.cli.version_cost import version_costs
    from featurestore.errors import StoreError

    try:
        return version_costs(settings.store.data_dir, reviewed.plan, [*registry.views(), *registry.batch_views()])
    except StoreError as error:
        warn(f"the cost of second versions is not known: {error.message}")
        return []


def resolve_modules(modules: list[str]) -> "ResolvedDefinitions":
    """The definitions of modules in the working directory, checked against their schemas."""
    from featurestore.definitions.discover import load_definitions
    from featurestore.definitions.resolve import resolve_all

    directory = Path.cwd()
    return resolve_all(load_definitions(modules, directory), directory)


def check_owners(settings: "Settings", resolved: "ResolvedDefinitions") -> None:
    """Raise DefinitionError for what nobody owns, where [registry] require_owner asks for it."""
    from featurestore.definitions.governance import require_owners

    if settings.registry.require_owner:
        require_owners(resolved)


def tell_deprecated(resolved: "ResolvedDefinitions") -> None:
    """A line on stderr for each deprecated feature."""
    from featurestore.definitions.governance import deprecation_notes

    for note in deprecation_notes(resolved):
        warn(note)


def tell_similar(registry: "Registry", planned: "Plan") -> None:
    """A line on stderr for each new feature that computes what another one does already."""
    from featurestore.definitions.specs import BatchViewSpec, ViewSpec
    from featurestore.registry.similar import similar_features

    wanted = [spec for spec in planned.specs.values() if isinstance(spec, ViewSpec | BatchViewSpec)]
    if wanted:
        deployed: list[ViewSpec | BatchViewSpec] = [
            *(view.spec for view in registry.views()),
            *(view.spec for view in registry.batch_views()),
        ]
        for found in similar_features(wanted, deployed):
            warn(str(found))


def check_batch_sources(resolved: "ResolvedDefinitions") -> None:
    """Check batch views against the columns of their files; those that can't be reached now are told on stderr.

    Raises SchemaError, SourceError.
    """
    from featurestore.errors import SourceUnavailableError

    for spec in resolved.batch_views.values():
        from featurestore.batch.rows import check_source
        from featurestore.compile.batch import CompiledBatchView

        try:
            check_source(CompiledBatchView(0, 0, spec), Path.cwd())
        except SourceUnavailableError as error:
            typer.echo(f"view '{spec.name}' is not checked against its source: {error.message}", err=True)

"""`featurestore plan`: what `apply` would change in the registry."""

import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.cli.options import DataDir, Json, Modules, load_settings
from featurestore.cli.output import print_json, print_line, warn

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.definitions.resolve import ResolvedDefinitions
    from featurestore.registry import Plan, Registry

EXAMPLES = "Example: [bold]featurestore plan pipelines.transactions[/bold]"


def plan(modules: Modules, data_dir: DataDir = None, json: Json = False) -> None:
    """Check definitions and show what apply would change in the registry. Writes nothing."""
    from featurestore.errors import NoRegistryError
    from featurestore.registry import Registry

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
            planned = registry.plan(resolved)
            reached = plan_reach(registry, planned)
        finally:
            registry.close()
    show_plan(planned, reached, json)


def show_plan(planned: "Plan", reached: dict[str, tuple[str, ...]], json: bool) -> None:
    """Print a plan, and what the changes of its sources reach (`plan_reach`)."""
    if json:
        print_json({"has_changes": planned.has_changes, "changes": planned.changes, "reached": reached})
        return
    print_line(planned.render())
    for source, features in reached.items():
        print_line(f"  the change of source {source} reaches {'' if features else 'no feature'}")
        for view, names in groupby((feature.partition(":") for feature in features), key=lambda parts: parts[0]):
            print_line(f"      {view}: {', '.join(name for _, _, name in names)}")


def plan_reach(registry: "Registry", planned: "Plan") -> dict[str, tuple[str, ...]]:
    """By changed source, the deployed features that are computed from what changes."""
    from featurestore.registry.impact import reached_features

    if not any(change.kind == "source" for change in planned.changed):
        return {}
    views = [view.spec for view in registry.views()]
    sources = [registry.source(name) for name in sorted({view.source for view in views})]
    return reached_features(planned, sources, views, [view.spec for view in registry.batch_views()])


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


def check_batch_sources(resolved: "ResolvedDefinitions") -> None:
    """Check batch views against the columns of their files; those that can't be reached now are told on stderr.

    Raises SchemaError, SourceError.
    """
    import typer

    from featurestore.errors import SourceUnavailableError

    for spec in resolved.batch_views.values():
        from featurestore.batch.rows import check_source
        from featurestore.compile.batch import CompiledBatchView

        try:
            check_source(CompiledBatchView(0, 0, spec), Path.cwd())
        except SourceUnavailableError as error:
            typer.echo(f"view '{spec.name}' is not checked against its source: {error.message}", err=True)

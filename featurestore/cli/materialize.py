"""`featurestore materialize`: brings batch views up to date, for a person or a scheduler."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from featurestore.batch.materialize import Materialized
    from featurestore.config import Settings
    from featurestore.registry import RegisteredBatchView

TRY_AGAIN = 75
"""Exit code when everything that failed may work later: sysexits' EX_TEMPFAIL, which schedulers can tell from 1."""

EXAMPLES = (
    "Examples: [bold]featurestore materialize pipelines/limits.py[/bold]   "
    "[bold]featurestore materialize card_limits --json[/bold]   "
    "[bold]featurestore materialize card_limits --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z[/bold]"
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def materialize(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE|VIEW]…",
            help="Modules, as for apply, or names of applied batch views; all applied ones by default.",
            show_default=False,
        ),
    ] = None,
    from_time: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Do the interval from here on, ISO 8601 with a zone, instead of going on from the last end.",
            show_default=False,
        ),
    ] = None,
    to_time: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Up to here, not included; now by default.", show_default=False),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the modules' definitions to the registry first.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Bring batch views up to date in both stores: rows whose time has come since the last run, and late ones.

    Safe to repeat and to kill at any moment: an interval that was begun is finished first. Two runs of one view exclude
    each other. A view that fails does not keep the others from being done. Exit code 0: all done, also when nothing was
    new; 1: a view failed and will again; 75: try again later, for its source does not answer, another run holds it or
    the disk is full.
    """
    from featurestore.durations import parse_instant_us
    from featurestore.errors import FeatureStoreError

    settings = load_settings(data_dir)
    bounds = [None if text is None else parse_instant_us(text) for text in (from_time, to_time)]
    views = _chosen(settings, targets or [], apply=apply)
    done: list[Materialized] = []
    failed: list[tuple[str, FeatureStoreError]] = []
    for view in views:
        try:
            done += _run(settings, view, *bounds)
        except FeatureStoreError as error:
            failed.append((view.spec.name, error))
    if json:
        print_json(
            {
                "materialized": done,
                "failed": [
                    {"view": name, "error": problem.message, "hint": problem.hint, "retryable": problem.retryable}
                    for name, problem in failed
                ],
            }
        )
    else:
        _show(done)
    for name, problem in failed:
        typer.echo(f"Error: view '{name}': {problem}", err=True)
    if failed:
        raise typer.Exit(TRY_AGAIN if all(problem.retryable for _, problem in failed) else 1)


def _run(
    settings: "Settings", view: "RegisteredBatchView", from_us: int | None, to_us: int | None
) -> "list[Materialized]":
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from featurestore.batch.materialize import Materializer
    from featurestore.cli.recorded import recorded_materialization
    from featurestore.compile.batch import CompiledBatchView

    compiled = CompiledBatchView(view.view_id, view.version, view.spec)
    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} rows read"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(compiled.name, total=None)
        runs = Materializer(
            settings.store.data_dir,
            Path.cwd(),
            fsync=settings.store.fsync == "commit",
            progress=lambda rows: bar.update(task, completed=rows),
        )
        return recorded_materialization(settings, view, lambda: runs.run(compiled, from_us=from_us, to_us=to_us))


def _chosen(settings: "Settings", targets: Sequence[str], *, apply: bool) -> "list[RegisteredBatchView]":
    """The views that are meant. Raises PlanRequiredError for modules that differ from what is applied."""
    from featurestore.cli.git_revision import git_revision
    from featurestore.cli.plan import check_owners, resolve_modules
    from featurestore.definitions.names import nearest
    from featurestore.errors import (
        ConfigError,
        DefinitionError,
        NoRegistryError,
        PlanRequiredError,
        UnknownViewError,
    )
    from featurestore.registry import Registry
    from featurestore.registry.review import review

    try:
        registered = {view.spec.name for view in Registry.open(settings.registry_place, create=False).batch_views()}
    except NoRegistryError:
        registered = set()
    names = [target for target in targets if target in registered or not _is_module(target)]
    modules = [target for target in targets if target not in names]
    if apply and not modules:
        raise ConfigError("--apply needs a module", hint="featurestore materialize MODULE --apply")
    wanted: set[str] = set(names) or (set() if modules else registered)
    if modules:
        resolved = resolve_modules(modules)
        if not resolved.batch_views:
            raise DefinitionError(
                f"{', '.join(modules)} defines no batch view", hint="assign a BatchFeatureView to a module-level name"
            )
        if apply:
            check_owners(settings, resolved)
        registry = Registry.open(settings.registry_place, create=apply)
        reviewed = review(registry, registry.plan(resolved), settings.registry.in_use_days)
        if reviewed.plan.has_changes and not apply:
            raise PlanRequiredError(
                f"the definitions differ from what is applied:\n{reviewed.render()}",
                hint="review it, then run `featurestore apply`, or `featurestore materialize --apply`",
            )
        reviewed.refuse_breaking()
        registry.apply(
            reviewed.plan, revision=git_revision(Path.cwd(), [source.schema for source in resolved.sources.values()])
        )
        wanted = wanted or set(resolved.batch_views)
    registry = Registry.open(settings.registry_place, create=False)
    views = {view.spec.name: view for view in registry.batch_views()}
    for name in sorted(wanted):
        if name not in views:
            raise UnknownViewError(f"there is no batch view '{name}'", hint=nearest(name, views))
    if not views:
        raise UnknownViewError("no batch view is applied", hint="featurestore apply MODULE")
    return [view for name, view in views.items() if name in wanted]


def _is_module(target: str) -> bool:
    """Whether a target is meant as a module: it has a dot or a slash, or can be imported from here."""
    return not _NAME.fullmatch(target) or Path(f"{target}.py").exists() or Path(target, "__init__.py").exists()


def _show(done: "Sequence[Materialized]") -> None:
    if done:
        print_table(
            ["view", "version", "from", "to", "rows read", "new rows", "entities changed", "entities", "seconds"],
            [_row(one) for one in done],
        )
    for one in done:
        if one.resumed:
            print_line(f"  {one.view}: the interval until {one.to_time} had been begun by a run that did not end")
        for count, what in ((one.null_keys, "join key"), (one.null_times, "event time")):
            if count:
                print_line(f"  {one.view}: {count:,} rows left out for a null {what}")


def _row(done: "Materialized") -> list[object]:
    counts = [done.read, done.rows, done.changed, done.entities]
    return [done.view, done.version, done.from_time or "the beginning", done.to_time, *counts, done.seconds]

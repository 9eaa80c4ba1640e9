"""`featurestore materialize`: brings batch views up to date, for a person or a scheduler."""

import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table, warn

if TYPE_CHECKING:
    from featurestore.batch.materialize import Materialized
    from featurestore.config import Settings
    from featurestore.errors import FeatureStoreError
    from featurestore.registry import Plan, RegisteredBatchView, Registry

TRY_AGAIN = 75
"""Exit code when everything that failed may work later: sysexits' EX_TEMPFAIL, which schedulers can tell from 1."""

EXAMPLES = (
    "Examples: [bold]featurestore materialize pipelines/limits.py[/bold]   "
    "[bold]featurestore materialize card_limits --json[/bold]   "
    "[bold]featurestore materialize card_limits@2 --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z[/bold]"
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class _Chosen:
    """Versions of batch views to materialize, by view and version. As "view@2", named: those that were asked for by
    version; promoted: those to serve once they are filled."""

    views: "Sequence[RegisteredBatchView]"
    named: frozenset[str]
    promoted: frozenset[str]


@dataclass(frozen=True)
class _Asked:
    """The interval that is asked for, and whether the version is asked for by its number."""

    from_us: int | None
    to_us: int | None
    named: bool


@dataclass
class _Outcome:
    """What became of the versions. promoted: "view@2"."""

    done: "list[Materialized]" = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    failed: "list[tuple[RegisteredBatchView, FeatureStoreError]]" = field(default_factory=list)


def materialize(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE|VIEW[@N]]…",
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
        bool,
        typer.Option(
            "--apply",
            help="Write the modules' definitions to the registry first; their versions of batch views that were never "
            "served are, as soon as they are filled.",
        ),
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Bring batch views up to date in both stores: rows whose time has come since the last run, and late ones.

    All versions of a view that are not retired are brought to the same instant, each in rows and files of its own;
    VIEW@2 is that one alone. A version that no run has filled, beside one that was, begins at the beginning whatever
    --from says, unless it is named like that.

    Safe to repeat and to kill at any moment: an interval that was begun is finished first. Two runs of one view exclude
    each other. A version that fails does not keep the others from being done. Exit code 0: all done, also when nothing
    was new; 1: one failed and will again; 75: try again later, for its source does not answer, another run holds the
    view or the disk is full.
    """
    from featurestore.durations import parse_instant_us

    settings = load_settings(data_dir)
    bounds = (None if text is None else parse_instant_us(text) for text in (from_time, to_time))
    outcome = _materialize(settings, _chosen(settings, targets or [], apply=apply), *bounds)
    failed = outcome.failed
    if json:
        print_json(
            {
                "materialized": outcome.done,
                "promoted": outcome.promoted,
                "failed": [_failure(view, problem) for view, problem in failed],
            }
        )
    else:
        _show(outcome.done)
        for reference in outcome.promoted:
            print_line(f"  {reference} is served")
    for view, problem in failed:
        typer.echo(f"Error: view '{view.reference}': {problem}", err=True)
    if failed:
        raise typer.Exit(TRY_AGAIN if all(problem.retryable for _, problem in failed) else 1)


def _materialize(settings: "Settings", chosen: _Chosen, from_us: int | None, to_us: int | None) -> _Outcome:
    from featurestore.errors import FeatureStoreError
    from featurestore.registry import Registry

    outcome = _Outcome()
    instants: dict[str, int] = {}
    registry = Registry.open(settings.registry_place, create=False)
    try:
        for view in chosen.views:
            live = [one for one in registry.live_batch_views() if one.name == view.name]
            others = [one for one in live if one.version != view.version]
            if len(others) == len(live):
                continue  # retired, and perhaps purged, while another one was materialized
            asked = _Asked(from_us, to_us, view.reference in chosen.named)
            now_us = instants.setdefault(view.name, time.time_ns() // 1_000)
            try:
                interval = _interval(settings, view, others, asked, now_us) if others else (from_us, to_us)
                outcome.done += _run(settings, view, *interval)
                if view.reference in chosen.promoted:
                    _promote(settings, registry, view)
                    outcome.promoted.append(view.reference)
            except FeatureStoreError as error:
                outcome.failed.append((view, error))
    finally:
        registry.close()
    return outcome


def _interval(
    settings: "Settings",
    view: "RegisteredBatchView",
    others: "Sequence[RegisteredBatchView]",
    asked: _Asked,
    now_us: int,
) -> tuple[int | None, int | None]:
    """The bounds of a version's interval beside others. now_us: where all that go on from their last end are to end."""
    from featurestore.cli.batch_status import batch_state

    state, *rest = (batch_state(settings.store.data_dir, one) for one in (view, *others))
    from_us, to_us = asked.from_us, asked.to_us
    if to_us is None and (state.until_us or 0) <= now_us:
        to_us = now_us
    is_successor = state.until_us is None and any(other.until_us is not None for other in rest)
    if from_us is not None and is_successor and not asked.named:
        # It is to take the place of one that has what was before. What a killed run had begun is finished first.
        from_us = None
        if to_us is not None and state.running is not None:
            to_us = max(to_us, state.running.to_us)
    return from_us, to_us


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
        task = bar.add_task(view.reference, total=None)
        runs = Materializer(
            settings.store.data_dir,
            Path.cwd(),
            fsync=settings.store.fsync == "commit",
            progress=lambda rows: bar.update(task, completed=rows),
        )
        return recorded_materialization(settings, view, lambda: runs.run(compiled, from_us=from_us, to_us=to_us))


def _promote(settings: "Settings", registry: "Registry", view: "RegisteredBatchView") -> None:
    from featurestore.cli.batch_status import check_filled
    from featurestore.registry.jobs import Jobs

    warning = check_filled(settings.store.data_dir, registry, view.name, view.version)
    if warning is not None:
        warn(warning)
    registry.versions.promote(view.name, view.version, note="materialize --apply")
    Jobs(registry.database).record_version("promote", view.name, view.version)


def _chosen(settings: "Settings", targets: Sequence[str], *, apply: bool) -> _Chosen:
    """The versions that are meant. Raises PlanRequiredError for modules that differ from what is applied."""
    from featurestore.definitions.names import nearest
    from featurestore.errors import ConfigError, NoRegistryError, UnknownViewError
    from featurestore.registry import Registry, split_reference

    try:
        registered = {view.name for view in Registry.open(settings.registry_place, create=False).batch_views()}
    except NoRegistryError:
        registered = set()
    names = [target for target in targets if target.partition("@")[0] in registered or not _is_module(target)]
    modules = [target for target in targets if target not in names]
    if apply and not modules:
        raise ConfigError("--apply needs a module", hint="featurestore materialize MODULE --apply")
    wanted: set[str] = set(names) or (set() if modules else registered)
    promoted: frozenset[str] = frozenset()
    if modules:
        defined, promoted = _resolved(settings, modules, apply=apply)
        wanted = wanted or defined
    registry = Registry.open(settings.registry_place, create=False)
    try:
        views = registry.live_batch_views()
        known = {view.name for view in views}
        for target in sorted(wanted):
            name, version = split_reference(target)
            if name not in known:
                raise UnknownViewError(f"there is no batch view '{name}'", hint=nearest(name, known))
            if version is not None:
                registry.any_view(target)
    finally:
        registry.close()
    if not views:
        raise UnknownViewError("no batch view is applied", hint="featurestore apply MODULE")
    chosen = [view for view in views if {view.name, view.reference} & wanted]
    named = frozenset(view.reference for view in chosen if view.name not in wanted)
    return _Chosen(chosen, named, promoted)


def _resolved(settings: "Settings", modules: list[str], *, apply: bool) -> tuple[set[str], frozenset[str]]:
    """Names of the batch views of modules; with `apply`, which writes them, also the versions not served yet."""
    from featurestore.cli.git_revision import git_revision
    from featurestore.cli.plan import check_owners, resolve_modules
    from featurestore.errors import DefinitionError, PlanRequiredError
    from featurestore.registry import Registry
    from featurestore.registry.review import review

    resolved = resolve_modules(modules)
    if not resolved.batch_views:
        raise DefinitionError(
            f"{', '.join(modules)} defines no batch view", hint="assign a BatchFeatureView to a module-level name"
        )
    if apply:
        check_owners(settings, resolved)
    registry = Registry.open(settings.registry_place, create=apply)
    try:
        reviewed = review(registry, registry.plan(resolved), settings.registry.in_use_days)
        if reviewed.plan.has_changes and not apply:
            raise PlanRequiredError(
                f"the definitions differ from what is applied:\n{reviewed.render()}",
                hint="review it, then run `featurestore apply`, or `featurestore materialize --apply`",
            )
        reviewed.refuse_breaking()
        revision = git_revision(Path.cwd(), [source.schema for source in resolved.sources.values()])
        registry.apply(reviewed.plan, revision=revision)
        promoted = to_promote(registry, reviewed.plan, resolved.batch_views) if apply else frozenset()
    finally:
        registry.close()
    return set(resolved.batch_views), promoted


def to_promote(registry: "Registry", plan: "Plan", names: Iterable[str]) -> frozenset[str]:
    """Of a plan that was applied, the versions of batch views, as "view@2", that are to be served once they are filled.

    One that no run filled at the first try is served after a later one. One that was promoted and taken back stays so,
    and no canary is cut short, unless the definition has become another one.
    """
    from featurestore.registry.history import history

    routes = registry.routes()
    changed = {one.name: one.new_version for one in plan.changed if one.kind == "batch_view"}
    found = set()
    for name in names:
        before = plan.before.get(("batch_view", name))
        version = None if before is None else changed.get(name, before[0])
        if before is None or version is None or version == routes[name].served:
            continue
        promotions = {entry.version for entry in history(registry.database, name) if entry.action == "promote"}
        if version != before[0] or (routes[name].role(version) == "shadow" and version not in promotions):
            found.add(f"{name}@{version}")
    return frozenset(found)


def _is_module(target: str) -> bool:
    """Whether a target is meant as a module: it has a dot or a slash, or can be imported from here."""
    if "@" in target:
        return False
    return not _NAME.fullmatch(target) or Path(f"{target}.py").exists() or Path(target, "__init__.py").exists()


def _failure(view: "RegisteredBatchView", problem: "FeatureStoreError") -> Mapping[str, object]:
    error = {"error": problem.message, "hint": problem.hint, "retryable": problem.retryable}
    return {"view": view.name, "version": view.version, **error}


def _show(done: "Sequence[Materialized]") -> None:
    if done:
        print_table(
            ["view", "version", "from", "to", "rows read", "new rows", "entities changed", "entities", "seconds"],
            [_row(one) for one in done],
        )
    for one in done:
        reference = f"{one.view}@{one.version}"
        if one.resumed:
            print_line(f"  {reference}: the interval until {one.to_time} had been begun by a run that did not end")
        for count, what in ((one.null_keys, "join key"), (one.null_times, "event time")):
            if count:
                print_line(f"  {reference}: {count:,} rows left out for a null {what}")


def _row(done: "Materialized") -> list[object]:
    counts = [done.read, done.rows, done.changed, done.entities]
    return [done.view, done.version, done.from_time or "the beginning", done.to_time, *counts, done.seconds]

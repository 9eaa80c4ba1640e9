"""`featurestore versions|promote|rollback|retire|canary`: versions of a view side by side, and who reads which."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, open_registry
from featurestore.cli.output import print_json, print_line, print_table, warn

if TYPE_CHECKING:
    from pathlib import Path

    from featurestore.registry import Registry, Route
    from featurestore.registry.jobs import Kind

VERSIONS_EXAMPLES = (
    "Examples: [bold]featurestore versions card_activity[/bold]   "
    "[bold]featurestore versions card_activity --json[/bold]"
)
PROMOTE_EXAMPLES = (
    "Examples: [bold]featurestore promote card_activity@2[/bold]   "
    "[bold]featurestore promote card_activity@2 --service fraud_v3 --note 'shadow report looked at'[/bold]"
)
ROLLBACK_EXAMPLES = "Example: [bold]featurestore rollback card_activity --note 'scores drifted'[/bold]"
RETIRE_EXAMPLES = "Example: [bold]featurestore retire card_activity@1 --yes[/bold]"
CANARY_EXAMPLES = (
    "Examples: [bold]featurestore canary card_activity@2 --share 0.1[/bold]   "
    "[bold]featurestore canary card_activity --stop[/bold]"
)

ViewName = Annotated[str, typer.Argument(metavar="VIEW", help="Name of an applied view.")]
Version = Annotated[str, typer.Argument(metavar="VIEW@N", help="A version of an applied view.")]
Services = Annotated[
    list[str] | None,
    typer.Option("--service", help="A feature service whose pin goes along; may be given again.", show_default=False),
]
Note = Annotated[str | None, typer.Option("--note", help="Why; kept in the history.", show_default=False)]


def versions(view: ViewName, data_dir: DataDir = None, json: Json = False) -> None:
    """Show every version that a view ever had: which is served, which are computed, who made them."""
    registry = open_registry(data_dir)
    try:
        found, route = registry.versions.of(view), registry.routes()[view]
    finally:
        registry.close()
    if json:
        print_json({"view": view, "route": route, "versions": found})
        return
    print_table(
        ["version", "role", "created", "by", "git revision", "retired"],
        [
            [f"{v.version}", v.role, _day(v.created_at), v.created_by, (v.git_revision or "")[:12], _day(v.retired_at)]
            for v in found
        ],
    )
    if route.canary is not None:
        print_line(f"  version {route.canary} answers {route.canary_share:.1%} of the reads, by their first entity")


def promote(
    version: Version, service: Services = None, note: Note = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Serve a version from now on. Readers switch at once; the version before stays computed, for `rollback`.

    Readers that name a version, and feature services that pin one, go on reading it. Refused for a version of a batch
    view that was never materialized while the served one was.
    """
    from featurestore.errors import ConfigError
    from featurestore.registry import split_reference

    view, number = split_reference(version)
    if number is None:
        raise ConfigError("which version?", hint=f"{view}@2; see featurestore versions {view}")
    registry = open_registry(data_dir)
    try:
        _check_filled(registry, data_dir, view, number)
        route = registry.versions.promote(view, number, services=service or (), note=note)
        _record(registry, "promote", view, number)
    finally:
        registry.close()
    _tell(view, route, json)


def rollback(
    view: ViewName, service: Services = None, note: Note = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Serve again the version before the last promotion, at once: its rows were kept up to date all the time."""
    registry = open_registry(data_dir)
    try:
        before = registry.routes().get(view)
        _check_filled(registry, data_dir, view, None if before is None else before.previous)
        route = registry.versions.rollback(view, services=service or (), note=note)
        _record(registry, "rollback", view, route.served)
    finally:
        registry.close()
    _tell(view, route, json)


def retire(version: Version, note: Note = None, yes: Yes = False, data_dir: DataDir = None, json: Json = False) -> None:
    """Compute a version no longer, from the next start of the worker or the next materialize on, for good.

    Refused for a version that is served, is a canary, or is pinned by a feature service. Its rows and files stay until
    `featurestore view purge`.
    """
    from featurestore.errors import ConfigError
    from featurestore.registry import RegisteredBatchView, split_reference

    view, number = split_reference(version)
    if number is None:
        raise ConfigError("which version?", hint=f"{view}@1; see featurestore versions {view}")
    registry = open_registry(data_dir)
    try:
        registry.versions.check_retire(view, number)
        confirm(f"Compute {version} no longer? `rollback` can't bring it back.", yes)
        registry.versions.retire(view, number, note=note)
        _record(registry, "retire", view, number)
        is_batch = isinstance(registry.any_view(view), RegisteredBatchView)
    finally:
        registry.close()
    if json:
        print_json({"view": view, "retired": number})
    else:
        first = "" if is_batch else "start the worker anew, then "
        print_line(f"{version} is retired; {first}remove its rows: featurestore view purge {view}")


def canary(
    version: Annotated[str, typer.Argument(metavar="VIEW[@N]", help="A version; with --stop the view.")],
    share: Annotated[
        float | None, typer.Option("--share", help="Part of the reads, above 0 and below 1.", show_default=False)
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Serve all reads as before again.")] = False,
    note: Note = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Let a version answer a share of the reads: of the same entities each time, by a hash of the first one.

    All rows of a response are of one version. Reads of features that the version lacks, or has with another type, are
    answered by the served version.
    """
    from featurestore.errors import ConfigError
    from featurestore.registry import split_reference

    view, number = split_reference(version)
    if stop == (share is not None):
        raise ConfigError("give either --share or --stop", hint=f"featurestore canary {view}@2 --share 0.1")
    if share is not None and number is None:
        raise ConfigError("which version?", hint=f"featurestore canary {view}@2 --share {share:g}")
    registry = open_registry(data_dir)
    try:
        if share is None or number is None:
            route = registry.versions.stop_canary(view, note=note)
            _record(registry, "canary", view, route.served)
        else:
            _check_filled(registry, data_dir, view, number)
            route = registry.versions.set_canary(view, number, share, note=note)
            _record(registry, "canary", view, number)
    finally:
        registry.close()
    _tell(view, route, json)


def _check_filled(registry: "Registry", data_dir: "Path | None", view: str, version: int | None) -> None:
    """Refuse, or warn of, a version of a batch view that has less than the served one."""
    if version is not None and any(one.name == view for one in registry.batch_views()):
        from featurestore.cli.batch_status import check_filled

        warning = check_filled(load_settings(data_dir).store.data_dir, registry, view, version)
        if warning is not None:
            warn(warning)


def _record(registry: "Registry", kind: "Kind", view: str, version: int) -> None:
    """Among the jobs; the history of changes has it in any case."""
    from featurestore.registry.jobs import Jobs

    Jobs(registry.database).record_version(kind, view, version)


def _tell(view: str, route: "Route", json: bool) -> None:
    if json:
        print_json({"view": view, "route": route})
        return
    kept = "" if route.previous is None else f"; version {route.previous} is computed still"
    print_line(f"{view}: version {route.served} is served{kept}")
    if route.canary is not None:
        print_line(f"  version {route.canary} answers {route.canary_share:.1%} of the reads")


def _day(instant: object) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M}"

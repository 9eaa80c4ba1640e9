"""`featurestore status`: how far each source and view has come."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from featurestore.cli.options import BootstrapServers, DataDir, Json, load_settings
from featurestore.cli.output import format_bytes, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from featurestore.cli.batch_status import BatchViewStatus
    from featurestore.cli.disk_report import DiskReport, SourceDisk
    from featurestore.cli.status_report import SourceStatus, StatusReport, ViewStatus

EXAMPLES = (
    "Examples: [bold]featurestore status[/bold]   [bold]featurestore status --json[/bold]   "
    "[bold]featurestore status --disk[/bold]"
)


def status(
    bootstrap_servers: BootstrapServers = None,
    disk: Annotated[
        bool, typer.Option("--disk", help="What views and sources take on disk too; this reads the whole online store.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show lag, counts, watermark and freshness of each source and view, and how far batch views are materialized.

    Counts are those of the stores: what workers have committed and archived so far, over all their runs; a running
    worker's archive is some seconds old. Lag is what not all views have applied.

    With --disk: bytes of each view version in the online store (keys and values before compression) and of its files in
    the offline store, and of each source's files.
    """
    from featurestore.cli.status_report import collect_status

    settings = load_settings(kafka__bootstrap_servers=bootstrap_servers, store__data_dir=data_dir)
    report = collect_status(settings)
    if disk:
        from featurestore.cli.disk_screen import scan_disk

        report = msgspec.structs.replace(report, disk=scan_disk(settings))
    if json:
        print_json(report)
        return
    if not report.sources and not report.batch_views:
        print_line("nothing is applied yet: featurestore apply MODULE")
        return
    if report.sources:
        _show_streams(report)
    if report.sources and report.batch_views:
        print_line("")
    if report.batch_views:
        _show_batch_views(report)
    if report.disk is not msgspec.UNSET:
        _print_disk(report.disk)


def _show_streams(report: "StatusReport") -> None:
    print_table(
        ["source", "generation", "partitions", "lag", "read", "accepted", "too late", "dead letters"],
        [_source_row(source) for source in report.sources],
    )
    for source in report.sources:
        if source.dead_letters:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(source.dead_letters.items()))
            print_note(f"{source.name}: dead letters: {reasons}")
        if source.duplicates:
            print_note(f"{source.name}: duplicates: {source.duplicates:,}")
        if source.offsets_lost:
            places = ", ".join(
                f"{gap.first} to {gap.end - 1} of partition {gap.partition}" for gap in source.offset_gaps
            )
            print_note(f"{source.name}: {source.offsets_lost:,} offsets were gone before they were read: {places}")
        if source.broker_error:
            print_note(f"{source.name}: lag unknown: {source.broker_error}")
        if not source.has_store:
            print_line(f"  {source.name}: no worker has run yet: featurestore run MODULE")
    print_line("")
    print_table(
        ["view", "version", "entities", "applied", "filtered", "null key", "beyond retention"],
        [
            [v.name, _version(v), v.entities, v.applied, v.filtered, v.null_key, v.beyond_retention]
            for v in report.views
        ],
    )
    print_line("")
    print_table(
        ["view", "watermark", "newest event", "freshness", "complete since"],
        [[_name(v, report.views), v.watermark, v.newest_event, _age(v.freshness_s), _since(v)] for v in report.views],
    )
    _show_slos(report.views)
    for view in report.views:
        if view.paused_since:
            print_line(f"  {view.name}: paused since {view.paused_since}: featurestore view resume {view.name}")


def _version(view: "ViewStatus | BatchViewStatus") -> str:
    return f"{view.version}" if view.role == "served" else f"{view.version}, {view.role}"


def _name(view: "ViewStatus | BatchViewStatus", views: "Sequence[ViewStatus | BatchViewStatus]") -> str:
    """With its version where several of it are computed."""
    several = sum(other.name == view.name for other in views) > 1
    return f"{view.name}@{view.version}" if several else view.name


def _print_disk(disk: "DiskReport") -> None:
    if disk.sources:
        print_line("")
        print_table(
            ["source", "online files", "archive", "late", "dead letters", "backfill"],
            [[s.name, *(format_bytes(size) for size in _sizes(s))] for s in disk.sources],
        )
    print_line("")
    print_table(
        ["view", "version", "entities", "rows", "waiting", "revisions", "online", "offline"],
        [
            [view.name, f"{v.version}" if v.live else f"{v.version}, retired", v.entities]
            + [format_bytes(size) for size in (v.rows_bytes, v.pending_bytes, v.revisions_bytes)]
            + [format_bytes(v.online_bytes), format_bytes(v.offline_bytes)]
            for view in disk.views
            for v in view.versions
        ],
        key_columns=2,
    )
    for view in disk.views:
        if any(not version.live for version in view.versions):
            print_line(f"  {view.name}: retired versions can be removed: featurestore view purge {view.name}")


def _sizes(source: "SourceDisk") -> list[int]:
    return [
        source.online_file_bytes,
        source.archive_bytes,
        source.late_bytes,
        source.dead_letter_bytes,
        source.backfill_bytes,
    ]


def _show_batch_views(report: "StatusReport") -> None:
    print_table(
        ["batch view", "version", "source", "entities", "materialized until", "newest row", "freshness"],
        [
            [v.name, _version(v), v.source, v.entities, v.materialized_until, v.newest_row, _age(v.freshness_s)]
            for v in report.batch_views
        ],
    )
    _show_slos(report.batch_views)
    for view in report.batch_views:
        name = _name(view, report.batch_views)
        if view.unfinished:
            print_line(f"  {name}: a run has begun and not ended: the next one finishes it")
        elif view.materialized_until is None:
            print_line(f"  {name}: nothing is materialized yet: featurestore materialize {name}")


def _show_slos(views: "Sequence[ViewStatus | BatchViewStatus]") -> None:
    for view in views:
        if view.freshness_slo_s is None or view.freshness_s is None:
            continue
        told = "keeps" if view.freshness_s <= view.freshness_slo_s else "misses"
        print_line(f"  {_name(view, views)}: {told} its freshness SLO of {_age(view.freshness_slo_s)}")


def _source_row(source: "SourceStatus") -> list[object]:
    dead = sum(source.dead_letters.values())
    counts = [source.read, source.accepted, source.late, dead]
    return [source.name, source.generation, len(source.partitions) or None, source.lag, *counts]


def _since(view: "ViewStatus") -> str | None:
    return "the topic's beginning" if view.from_beginning else view.complete_since


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"

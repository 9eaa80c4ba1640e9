"""`featurestore unused`: features and views that nobody reads, and what pruning them would free."""

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import format_bytes, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from featurestore.cli.unused_report import UnusedReport

EXAMPLES = (
    "Examples: [bold]featurestore unused --since 30d[/bold]   "
    "[bold]featurestore unused --since 2026-11-01T00:00:00Z --json[/bold]"
)


def unused(
    since: Annotated[
        str, typer.Option(metavar="DURATION|TIME", help='How far back: a duration ("30d") or an ISO 8601 instant.')
    ] = "30d",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show features that nobody read, and that no feature service holds; and the bytes that pruning them would free.

    Servers and training sets record what is read; the answer says since when. A feature that was applied later than
    --since is left out. Online bytes of single features are estimated by the widths in the row layout: what others need
    stays. Offline bytes are those of the columns in the snapshots.
    """
    from featurestore.cli.disk_screen import shard_progress
    from featurestore.cli.unused_report import collect_unused
    from featurestore.registry.database import Database
    from featurestore.registry.served import read_served
    from featurestore.registry.unused import find_unused

    settings = load_settings(data_dir)
    database = Database.open(settings.registry_place, create=False)
    try:
        found = find_unused(database, _instant(since))
        served = read_served(database)
    finally:
        database.close()
    with shard_progress("scanning") as tell:
        report = collect_unused(settings.store.data_dir, found, served, tell)
    if json:
        print_json(report)
    else:
        _print(report)


def _print(report: "UnusedReport") -> None:
    if report.recorded_since is None:
        print_line("no read was recorded yet, so nothing can be said; reads count from the first server on")
        return
    rows: list[list[object]] = []
    for view in report.views:
        if view.whole:
            last = max((one.last_read_at for one in view.features if one.last_read_at), default=None)
            every = f"all {len(view.features)}"
            rows.append(
                [view.name, every, _day(last), format_bytes(view.online_bytes), format_bytes(view.offline_bytes)]
            )
            continue
        for one in view.features:
            sizes = [format_bytes(one.online_bytes), format_bytes(one.offline_bytes)]
            rows.append([view.name, one.name, _day(one.last_read_at), *sizes])
    since = f"{report.since:%Y-%m-%d %H:%M}"
    if rows:
        print_table(["view", "feature", "last read", "online", "offline"], rows, key_columns=2)
    else:
        print_line(f"every feature that was there by {since} UTC was read since, or a feature service holds it")
    if report.is_covered:
        print_note(f"Reads are recorded since {report.recorded_since}; looked for from {since} UTC on.")
    else:
        print_note(
            f"Reads are recorded since {report.recorded_since} only: what was read from {since} UTC until then "
            "is unknown."
        )


def _day(instant: datetime | None) -> str:
    return "none known" if instant is None else f"{instant:%Y-%m-%d %H:%M}"


def _instant(text: str) -> datetime:
    """The instant that --since means. Raises ConfigError for a text that is neither duration nor instant."""
    from featurestore.durations import parse_duration_us, parse_instant_us

    if text[:4].isdigit() and "-" in text:
        return datetime.fromtimestamp(parse_instant_us(text) / 1e6, timezone.utc)
    return datetime.now(timezone.utc) - timedelta(microseconds=parse_duration_us(text))

"""`featurestore status`: how far each source and view has come."""

from featurestore.cli.options import BootstrapServers, DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table

EXAMPLES = "Examples: [bold]featurestore status[/bold]   [bold]featurestore status --json[/bold]"


def status(
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show lag, counts, watermark and freshness of each source and view.

    Counts are those of the stores: what workers have committed and archived so far, over all their runs.
    """
    from featurestore.cli.status_report import collect_status

    report = collect_status(load_settings(kafka__bootstrap_servers=bootstrap_servers, store__data_dir=data_dir))
    if json:
        print_json(report)
        return
    print_table(
        ["source", "topic", "lag", "read", "accepted", "too late", "dead letters"],
        [
            [
                source.name,
                source.topic,
                source.lag,
                source.read,
                source.accepted,
                source.late,
                ", ".join(f"{reason} {count:,}" for reason, count in sorted(source.dead_letters.items())) or "0",
            ]
            for source in report.sources
        ],
    )
    for source in report.sources:
        if source.broker_error:
            print_line(f"  {source.name}: lag unknown: {source.broker_error}")
    print_line("")
    print_table(
        [
            *("view", "version", "entities", "applied", "filtered", "null key", "beyond retention"),
            *("watermark", "newest event", "complete since"),
        ],
        [
            [
                *(view.name, view.version, view.entities, view.applied, view.filtered, view.null_key),
                *(view.beyond_retention, view.watermark, view.newest_event),
                "the topic's beginning" if view.from_beginning else view.complete_since,
            ]
            for view in report.views
        ],
    )

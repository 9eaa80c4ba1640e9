"""`featurestore status`: how far each source and view has come."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import BootstrapServers, DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from featurestore.cli.status_data import SourceStatus

EXAMPLES = "Examples: [bold]featurestore status[/bold]   [bold]featurestore status --no-broker --json[/bold]"


def status(
    broker: Annotated[bool, typer.Option(help="Ask the broker for the topics' ends, for the lag.")] = True,
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show lag, counts, watermark and freshness of each source and view.

    Counts are those of the stores: what a worker has committed and archived so far, over all its runs.
    """
    from featurestore.cli.status_data import read_status

    settings = load_settings(kafka__bootstrap_servers=bootstrap_servers, store__data_dir=data_dir)
    sources = read_status(settings, ask_broker=broker)
    if json:
        print_json(sources)
        return
    for source in sources:
        _print(source)


def _print(source: "SourceStatus") -> None:
    print_table(
        ["source", "topic", "lag", "accepted", "too late", "dead letters"],
        [
            [
                source.source,
                source.topic,
                source.lag,
                source.accepted,
                source.too_late,
                ", ".join(f"{reason} {count:,}" for reason, count in sorted(source.dead_letters.items())) or "0",
            ]
        ],
    )
    if source.note:
        print_line(f"  note: {source.note}")
    print_line("")
    if source.views:
        print_table(
            [
                "view",
                "version",
                "entities",
                "applied",
                "filtered",
                "null key",
                "beyond retention",
                "watermark",
                "newest event",
                "applied at",
            ],
            [
                [
                    view.view,
                    view.version,
                    view.entities,
                    view.counts.applied,
                    view.counts.filtered,
                    view.counts.null_key,
                    view.counts.beyond_retention,
                    view.watermark,
                    view.newest_event,
                    view.complete_since,
                ]
                for view in source.views
            ],
        )
        print_line("")

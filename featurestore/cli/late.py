"""`featurestore late`: events beyond the allowed lateness; look at them, send them again."""

import typer

from featurestore.cli.options import BootstrapServers, DataDir, Json, Yes, load_settings
from featurestore.cli.output import print_json, print_line, print_table
from featurestore.cli.side_commands import (
    DryRun,
    Limit,
    Offset,
    Partition,
    SourceName,
    replay_messages,
    show_messages,
)

LS_EXAMPLES = "Examples: [bold]featurestore late ls[/bold]   [bold]featurestore late ls --json[/bold]"
SHOW_EXAMPLES = (
    "Examples: [bold]featurestore late show --limit 3[/bold]   "
    "[bold]featurestore late show --partition 0 --offset 4711 --json[/bold]"
)
REPLAY_EXAMPLES = (
    "Examples: [bold]featurestore late replay --dry-run[/bold]   "
    "[bold]featurestore late replay --partition 2 --yes[/bold]"
)

app = typer.Typer(help="Events beyond the allowed lateness: list, show, replay.", no_args_is_help=True)


@app.command("ls", epilog=LS_EXAMPLES)
def ls(source: SourceName = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Count too-late events by source, with the span of their event times and how late they were."""
    import polars as pl

    from featurestore.batches import EVENT_TIME
    from featurestore.cli.side_messages import REPLAYED, find_messages, load_deployed
    from featurestore.durations import format_duration
    from featurestore.offline.layout import LATE

    settings = load_settings(data_dir)
    deployed = load_deployed(settings)
    rows = []
    for name in [deployed.source(source).name] if source is not None else sorted(deployed.sources):
        found = find_messages(settings.store.data_dir, LATE, name)
        if found.is_empty():
            continue
        time = pl.col(EVENT_TIME).dt.truncate("1ms").dt.to_string("iso:strict")
        (counted,) = found.select(
            pl.len().alias("count"),
            pl.col(REPLAYED).sum(),
            time.min().alias("first_event"),
            time.max().alias("last_event"),
            (pl.col("lateness").median().cast(pl.Int64) // 1_000_000 * 1_000_000).alias("lateness_median"),
            (pl.col("lateness").max() // 1_000_000 * 1_000_000).alias("lateness_max"),
        ).to_dicts()
        for column in ("lateness_median", "lateness_max"):
            counted[column] = format_duration(counted[column])
        allowed = format_duration(deployed.sources[name].allowed_lateness_us)
        rows.append({"source": name, **counted, "allowed_lateness": allowed})
    if json:
        print_json(rows)
    elif rows:
        print_table(
            ["source", "count", "replayed", "first event", "last event", "median", "latest by", "allowed"],
            [list(row.values()) for row in rows],
        )
    else:
        print_line("no too-late events")


@app.command("show", epilog=SHOW_EXAMPLES)
def show(
    source: SourceName = None,
    partition: Partition = None,
    offset: Offset = None,
    limit: Limit = 10,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show too-late events: their columns, the watermark that they came behind, and by how much (in microseconds)."""
    from featurestore.offline.layout import LATE

    show_messages(load_settings(data_dir), LATE, source, limit, json, partition=partition, offset=offset)


@app.command("replay", epilog=REPLAY_EXAMPLES)
def replay(
    source: SourceName = None,
    partition: Partition = None,
    offset: Offset = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send too-late events to their topic again, after allowed_lateness was raised and applied.

    A replayed event is judged like any other: it is accepted only if it is not older than its partition's newest event
    minus max_out_of_orderness minus allowed_lateness. So the command sends those that would be accepted now, says how
    many would be too late again and how much lateness they would need, and sends none of these. Their raw bytes are
    read from the topic: what retention has removed can't be replayed. Accepted events count in online features; windows
    behind a view's correction line are final and stay as they are.
    """
    from featurestore.offline.layout import LATE

    settings = load_settings(data_dir, kafka__bootstrap_servers=bootstrap_servers)
    replay_messages(settings, LATE, source, dry_run=dry_run, yes=yes, json=json, partition=partition, offset=offset)

"""`featurestore dead-letters`: what could not be decoded or validated; look at it, send it again."""

from typing import Annotated

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

LS_EXAMPLES = "Examples: [bold]featurestore dead-letters ls[/bold]   [bold]featurestore dead-letters ls --json[/bold]"
SHOW_EXAMPLES = (
    "Examples: [bold]featurestore dead-letters show --reason malformed --limit 3[/bold]   "
    "[bold]featurestore dead-letters show --partition 0 --offset 4711[/bold]"
)
REPLAY_EXAMPLES = (
    "Examples: [bold]featurestore dead-letters replay --dry-run[/bold]   "
    "[bold]featurestore dead-letters replay --reason missing_field --yes[/bold]"
)
Reason = Annotated[str | None, typer.Option("--reason", help="With this reason, as ls shows it.", show_default=False)]

app = typer.Typer(help="What could not be decoded or validated: list, show, replay.", no_args_is_help=True)


@app.command("ls", epilog=LS_EXAMPLES)
def ls(source: SourceName = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Count dead letters by source and reason, with the arrival times of the first and the last one."""
    import polars as pl

    from featurestore.batches import ARRIVAL_TIME
    from featurestore.cli.side_messages import REPLAYED, find_messages, load_deployed
    from featurestore.offline.layout import DEAD_LETTER

    settings = load_settings(data_dir)
    deployed = load_deployed(settings)
    rows = []
    for name in [deployed.source(source).name] if source is not None else sorted(deployed.sources):
        found = find_messages(settings.store.data_dir, DEAD_LETTER, name)
        if found.is_empty():
            continue
        time = pl.col(ARRIVAL_TIME).dt.truncate("1ms").dt.to_string("iso:strict")
        counted = found.group_by("reason").agg(
            pl.len().alias("count"),
            pl.col(REPLAYED).sum(),
            time.min().alias("first"),
            time.max().alias("last"),
        )
        rows += [{"source": name, **row} for row in counted.sort("reason").iter_rows(named=True)]
    if json:
        print_json(rows)
    elif rows:
        columns = ["source", "reason", "count", "replayed", "first", "last"]
        print_table(columns, [list(row.values()) for row in rows], key_columns=2)
    else:
        print_line("no dead letters")


@app.command("show", epilog=SHOW_EXAMPLES)
def show(
    source: SourceName = None,
    reason: Reason = None,
    partition: Partition = None,
    offset: Offset = None,
    limit: Limit = 10,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show dead letters: raw key and value as text where they are text, else as hex, and what was wrong with them."""
    from featurestore.offline.layout import DEAD_LETTER

    settings = load_settings(data_dir)
    show_messages(settings, DEAD_LETTER, source, limit, json, reason=reason, partition=partition, offset=offset)


@app.command("replay", epilog=REPLAY_EXAMPLES)
def replay(
    source: SourceName = None,
    reason: Reason = None,
    partition: Partition = None,
    offset: Offset = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send dead letters to their topic again, after the schema or the definition was mended and applied.

    Sends those that the applied definition would accept now, each at most once: raw key and value, to the partition
    where it stood, with its old place in the header featurestore-replayed-from. A replayed message has a new offset and
    is judged by its partition's watermark like any other, so an old one may be too late by now; the command says how
    many. Other headers were not kept. Workers may run meanwhile, or not.
    """
    from featurestore.offline.layout import DEAD_LETTER

    settings = load_settings(data_dir, kafka__bootstrap_servers=bootstrap_servers)
    replay_messages(
        settings,
        DEAD_LETTER,
        source,
        dry_run=dry_run,
        yes=yes,
        json=json,
        reason=reason,
        partition=partition,
        offset=offset,
    )

"""`featurestore watermark`: where a view's watermark stands and why, and an operator's remedy when it ran ahead."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, open_registry, require_data_dir
from featurestore.cli.output import print_json, print_line, print_table

SHOW_EXAMPLES = (
    "Examples: [bold]featurestore watermark show[/bold]   [bold]featurestore watermark show card_activity --json[/bold]"
)
RESET_EXAMPLES = (
    "Example: [bold]featurestore watermark reset card_activity --to 2026-11-23T09:00:00Z "
    "--reason 'a till with a wrong clock'[/bold]"
)

app = typer.Typer(help="Show watermarks, take one back that ran ahead.", no_args_is_help=True)


@app.command("show", epilog=SHOW_EXAMPLES)
def show(
    view: Annotated[
        str | None, typer.Argument(metavar="VIEW", help="An applied view; else all.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show each view's watermark, how far its partitions are, and which one holds it back.

    A partition's newest event is as the view has applied it. A watermark ahead of what the partitions give together was
    reached while the slower ones were idle, empty or new; it waits for them.
    """
    from featurestore.cli.watermark_report import collect_watermarks

    folder = _data_dir(data_dir)
    registry = open_registry(data_dir)
    try:
        report = collect_watermarks(folder, registry, [registry.view(view)] if view else registry.live_views())
    finally:
        registry.close()
    if json:
        print_json(report)
        return
    print_table(
        ["view", "source", "watermark", "partitions together", "held back by"],
        [[v.name, v.source, v.watermark, v.partitions_watermark, _name(v.held_back_by)] for v in report],
    )
    for found in report:
        if found.partitions:
            print_line("")
            print_table(
                [found.name, "newest event"], [[_name(part.partition), part.newest_event] for part in found.partitions]
            )
        if found.ahead:
            print_line(f"  {found.name}: the watermark is {found.ahead} ahead of what its partitions give together")
        for reset_ in found.resets:
            print_line(
                f"  {found.name}: version {reset_.version} was taken back from {reset_.before} to {reset_.to} at "
                f"{reset_.at} by {reset_.by}: {reset_.reason}"
            )


@app.command("reset", epilog=RESET_EXAMPLES)
def reset(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="Name of an applied view.")],
    to: Annotated[str, typer.Option("--to", metavar="TIME", help="ISO 8601 with a zone.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Kept with who and when.", show_default=False)],
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Take a view's watermark back, after a wrong event of one partition had dragged it ahead of all the others.

    Refused, with the numbers, where it would not hold or would make wrong rows: TIME may not be before what the
    partitions give together, and no event may lie within the view's longest window before TIME, nor between TIME and
    the watermark. Windows that end at or before TIME stay as they are. No worker may run: its source is locked.
    """
    from featurestore.durations import format_instant, parse_instant_us
    from featurestore.errors import ConfigError
    from featurestore.online.source_store import lock_source
    from featurestore.online.steps import whole_step
    from featurestore.registry import RegisteredView
    from featurestore.worker.prepare import RegisteredSource
    from featurestore.worker.watermark import check_reset, reset_watermark

    to_us = parse_instant_us(to)
    if not reason.strip():
        raise ConfigError("--reason is empty", hint="say why: it is kept with who and when")
    folder = _data_dir(data_dir)
    registry = open_registry(data_dir)
    registered: RegisteredView = registry.view(view)
    source = registry.source(registered.spec.source)
    lock = lock_source(folder, source.name)
    try:
        (compiled,) = RegisteredSource(source, (registered,)).compile()
        before = format_instant(check_reset(folder, compiled, to_us).watermark_us)
        confirm(f"Take the watermark of {view} back from {before} to {format_instant(to_us)}?", yes)
        with whole_step(folder):
            reset_watermark(folder, registry, registered, source, to_us, reason.strip())
    finally:
        lock.release()
        registry.close()
    if json:
        print_json({"view": view, "version": registered.version, "from": before, "to": format_instant(to_us)})
    else:
        print_line(f"the watermark of {view} was {before} and is {format_instant(to_us)} now")


def _name(partition: int | None) -> str | None:
    return None if partition is None else f"partition {partition}"


def _data_dir(data_dir: Path | None) -> Path:
    return require_data_dir(load_settings(data_dir))

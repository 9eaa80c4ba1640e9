"""`featurestore jobs`: what ran, when, on which definitions and offsets, and how it ended."""

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from featurestore.cli.options import DataDir, Json, open_registry
from featurestore.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from featurestore.registry.jobs import Job, Kind

JOBS_EXAMPLES = (
    "Examples: [bold]featurestore jobs[/bold]   "
    "[bold]featurestore jobs --failed --kind materialize[/bold]   "
    "[bold]featurestore jobs --view card_activity --json[/bold]   "
    "[bold]featurestore jobs show 3f9a[/bold]"
)
SHOW_EXAMPLES = "Examples: [bold]featurestore jobs show 3f9a[/bold]   [bold]featurestore jobs show 3f9a --json[/bold]"
SHORT_ID = 8

app = typer.Typer(invoke_without_command=True)


@app.callback(epilog=JOBS_EXAMPLES)
def jobs(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Only these: run, backfill, materialize, training-set, promote, rollback, retire, canary.",
            show_default=False,
        ),
    ] = None,
    view: Annotated[
        str | None, typer.Option(metavar="VIEW[@N]", help="Only jobs that worked on it.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed or were abandoned.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many at most, the newest first.")] = 20,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what ran: runs, backfills, materializations, training sets, promotions; and how each ended.

    A job is abandoned when its process died without a word: killed, out of memory, power cut.
    """
    if context.invoked_subcommand is not None:
        return
    from featurestore.registry.jobs import Jobs

    chosen = _kind(kind)
    registry = open_registry(data_dir)
    try:
        found = Jobs(registry.database).find(kind=chosen, view=view, failed=failed, limit=limit)
    finally:
        registry.close()
    if json:
        print_json({"jobs": found})
        return
    columns = ["id", "started", "kind", "of", "outcome", "took", "rows", "by"]
    print_table(columns, [_row(job) for job in found])


@app.command("show", epilog=SHOW_EXAMPLES)
def show(
    job: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show all that is recorded of one job: host, process, definitions, offsets, error."""
    from featurestore.registry.jobs import Jobs

    registry = open_registry(data_dir)
    try:
        found = Jobs(registry.database).get(job)
    finally:
        registry.close()
    if json:
        print_json(found)
        return
    facts = {
        "job": found.id,
        "kind": found.kind,
        "of": found.subject,
        "outcome": found.outcome,
        "started": _instant(found.started_at),
        "last heartbeat" if found.ended_at is None else "ended": _instant(found.last_seen_at),
        "took": _took(found),
        "by": f"{found.by} on {found.host}, process {found.pid}",
        "definitions": found.definitions_hash or "–",
        "git revision": found.git_revision or "–",
        "rows": "–" if found.rows is None else f"{found.rows:,}",
    }
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print_line(f"{name:{width}}{value}")
    if found.error is not None:
        print_line(f"{'error':{width}}{found.error}")
    if found.offsets:
        print_line("")
        print_table(
            ["source", "generation", "partition", "from offset", "to", "messages"],
            [
                [o.source, o.generation, f"{o.partition}", o.first, o.end, None if o.end is None else o.end - o.first]
                for o in found.offsets
            ],
            key_columns=3,
        )


def _kind(text: str | None) -> "Kind | None":
    from featurestore.registry.jobs import Kind

    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if kind == text:
            return kind
    if text is not None:
        raise typer.BadParameter(f"it is one of {', '.join(kinds)}", param_hint="--kind")
    return None


def _row(job: "Job") -> list[object]:
    started = f"{job.started_at:%Y-%m-%d %H:%M:%S}"
    return [job.id[:SHORT_ID], started, job.kind, job.subject, job.outcome, _took(job), job.rows, job.by]


def _took(job: "Job") -> str:
    """From its start to its end, or as far as is known."""
    until = datetime.now(timezone.utc) if job.outcome == "running" else job.last_seen_at
    seconds = max(0.0, (until - job.started_at).total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def _instant(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"

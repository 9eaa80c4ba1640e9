"""What `featurestore late` and `featurestore dead-letters` share: options, showing messages, replaying them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import confirm
from featurestore.cli.output import print_json, print_line

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.offline.layout import Kind

SourceName = Annotated[
    str | None, typer.Option("--source", help="Of this source; not needed when there is one.", show_default=False)
]
Partition = Annotated[
    int | None, typer.Option("--partition", min=0, help="Of this partition of the topic.", show_default=False)
]
Offset = Annotated[int | None, typer.Option("--offset", min=0, help="The one at this offset.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", min=1, help="So many at most, the newest first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, send nothing.")]

TEXT_MAX = 400


def show_messages(settings: "Settings", kind: "Kind", source: str | None, limit: int, json: bool, **where: Any) -> None:
    """Print some messages, the newest first."""
    from featurestore.batches import ARRIVAL_TIME, OFFSET
    from featurestore.cli.side_messages import find_messages, load_deployed

    spec = load_deployed(settings).source(source)
    found = find_messages(settings.store.data_dir, kind, spec.name, **where)
    rows = found.sort(ARRIVAL_TIME, OFFSET, descending=True).head(limit) if found.height else found
    documents = [_document(row) for row in rows.iter_rows(named=True)]
    if json:
        print_json({"source": spec.name, "found": found.height, "messages": documents})
        return
    for document in documents:
        for name, value in document.items():
            print_line(f"{name}: {_shortened(value)}")
        print_line("")
    print_line(f"{len(documents):,} of {found.height:,} shown")


def replay_messages(
    settings: "Settings", kind: "Kind", source: str | None, *, dry_run: bool, yes: bool, json: bool, **where: Any
) -> None:
    """Plan a replay, ask, and carry it out."""
    from featurestore.cli.side_messages import ReplayDesk, find_messages, load_deployed, tell_plan, tell_settled

    deployed = load_deployed(settings)
    spec = deployed.source(source)
    rows = find_messages(settings.store.data_dir, kind, spec.name, **where)
    desk = ReplayDesk(settings, deployed, spec, Path.cwd())
    prepared = desk.prepare(kind, rows)
    if not json:
        for line in tell_plan(prepared.plan, kind):
            print_line(line)
    if dry_run or not prepared.messages:
        if json:
            print_json({"plan": prepared.plan, "sent": 0})
        elif not prepared.messages:
            print_line("nothing to send")
        return
    confirm(f"Send {len(prepared.messages):,} messages to topic '{spec.topic}'?", yes)
    sent, settled = desk.replay(prepared.messages)
    if json:
        print_json({"plan": prepared.plan, "sent": sent, "earlier_replay": settled})
        return
    for line in tell_settled(settled):
        print_line(line)
    print_line(f"{sent:,} messages sent to topic '{spec.topic}'")


def _document(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _readable(value) for name, value in row.items()}


def _readable(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _shortened(value: Any) -> str:
    text = f"0x{value['hex']}" if isinstance(value, dict) else "–" if value is None else str(value)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text):,} characters)"

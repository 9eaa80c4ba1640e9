"""`featurestore produce`: sends a file to a topic."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import BootstrapServers, DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line

EXAMPLES = "Example: [bold]featurestore produce transactions events.jsonl --key card_id[/bold]"


def produce(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to send to.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines (.jsonl) or Parquet, by its name.")],
    key: Annotated[str | None, typer.Option(help="Field whose value is the key.", show_default=False)] = None,
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send a JSON-lines or Parquet file to a topic, and wait until the broker has it all.

    Messages with the same key go to the same partition and stay in order.
    """
    from featurestore.sources import embedded
    from featurestore.sources import produce as sending

    settings = load_settings(data_dir, kafka__bootstrap_servers=bootstrap_servers)
    # Told at once when no embedded broker runs: a file is sent now or not at all.
    servers = embedded.resolve_bootstrap(settings.kafka.bootstrap_servers, settings.store.data_dir, stop=lambda: True)
    sent = sending.produce(servers, topic, sending.read_messages(file, key), settings.kafka.settings)
    if json:
        print_json({"topic": topic, "messages": sent.messages, "value_bytes": sent.value_bytes})
    else:
        print_line(f"{sent.messages:,} messages ({sent.value_bytes:,} bytes) sent to {topic}")

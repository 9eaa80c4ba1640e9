"""`featurestore demo`: the whole road on generated card payments, on this machine alone."""

import signal
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.output import print_line, print_table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from featurestore.cli.demo_events import TransactionStream
    from featurestore.cli.demo_stage import Stage
    from featurestore.client import FeatureStoreClient

EXAMPLES = (
    "Examples: [bold]featurestore demo[/bold]   [bold]featurestore demo --keep-running[/bold]   "
    "[bold]featurestore demo --dir /tmp/demo --events 500000[/bold]"
)
SOURCE = "transactions"
PARTITIONS = 4
UNREAD_MAX = 20_000
"""The embedded broker forgets what overruns it (about 5 MB a partition): so many messages may be unread at a time."""

FEATURES = (
    "count_10m",
    "count_1h",
    "amount_eur_sum_1h",
    "amount_eur_mean_24h",
    "biggest_purchase_24h",
    "merchant_id_last",
)


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="The demo's project folder; made if needed.")] = Path(
        "featurestore-demo"
    ),
    events: Annotated[int, typer.Option(min=1_000, help="How many card payments to send.")] = 150_000,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Stay until Ctrl-C when all is read.")] = False,
) -> None:
    """Run everything once: broker, events, worker, server, reads; no Java, no containers, no configuration.

    Payments come out of order, some late, some broken. Ends by itself in about half a minute, and works again in the
    same folder: a new broker is a new topic generation.
    """
    # A request to end is told as Ctrl-C is: the stage then stops its processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(directory.resolve(), events, keep_running)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _run(folder: Path, events: int, keep_running: bool) -> None:
    from featurestore.cli.demo_stage import Stage
    from featurestore.client import FeatureStoreClient

    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with Stage(folder) as stage:
        print_line(f"Demo in {stage.folder}")
        stage.start("broker", "broker")
        stage.wait(lambda: stage.broker_address() is not None, "the embedded broker")
        stage.start("server", "serve", "--port", str(port), "--clock", "event")
        with FeatureStoreClient(url, retries=0) as client:
            sent = _play(stage, client, events)
        _tell_results(stage, sent)
        _tell_next(stage, url, keep_running)
        if keep_running:
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _play(stage: "Stage", client: "FeatureStoreClient", events: int) -> "TransactionStream":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from featurestore.cli.demo_events import Shape, TransactionStream
    from featurestore.sources.produce import MessageSender

    address = stage.broker_address()
    assert address is not None
    span = timedelta(hours=3)
    start = datetime.now(timezone.utc).replace(microsecond=0) - span - timedelta(minutes=1)
    stream = TransactionStream(
        Shape(events=events, cards=2_000, start=start.isoformat(), duration_s=span.total_seconds()),
        seed=int(start.timestamp()),
    )
    sender = MessageSender(address.bootstrap_servers, SOURCE, {})
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.completed:>9,.0f}"),
        TimeElapsedColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=events) for name in ("sent", "processed")}
        watch = _Watch(stage, client, bar, tasks, address.generation, events)
        for number, (key, value) in enumerate(stream, start=1):
            sender.send(value, key, partition=number % PARTITIONS)
            if number == 1:
                sender.flush()
                stage.start("worker", "run", "pipelines/transactions.py", "--apply")
            if number % 2_000 == 0 or number == events:
                sender.flush()
                watch.look(number)
                while number - watch.processed > UNREAD_MAX:
                    time.sleep(0.1)
                    watch.look(number)
        sender.flush()
        stage.wait(lambda: watch.look(events) >= events, "the worker to read everything", 120)
    return stream


class _Watch:
    """Follows the worker's progress, and reads some cards through the client while they change."""

    def __init__(
        self,
        stage: "Stage",
        client: "FeatureStoreClient",
        bar: "Progress",
        tasks: "dict[str, TaskID]",
        generation: str,
        events: int,
    ) -> None:
        self._stage = stage
        self._client = client
        self._bar = bar
        self._tasks = tasks
        self._generation = generation
        self._events = events
        self._shown = 0
        self.processed = 0

    def look(self, sent: int) -> int:
        """Take stock; returns how many messages are processed."""
        from featurestore.errors import FeatureStoreError

        self._stage.check()
        with suppress(FeatureStoreError):  # the worker has not made its store yet
            self.processed = sum(self._stage.processed(SOURCE, self._generation).values())
        self._bar.update(self._tasks["sent"], completed=sent)
        self._bar.update(self._tasks["processed"], completed=self.processed)
        if self.processed > self._shown + self._events // 3 or self.processed >= self._events > self._shown:
            self._shown = self.processed
            self._show_cards()
        return self.processed

    def _show_cards(self) -> None:
        from featurestore.errors import ServerUnavailableError

        cards = [f"card_{number:06d}" for number in range(4)]
        try:
            answer = self._client.get_online_features(
                features=[f"card_activity:{name}" for name in FEATURES], entities={"card_id": cards}
            )
        except ServerUnavailableError:
            return  # it is still starting; the next look will find it
        print_line(f"\n{self.processed:,} of {self._events:,} processed; four cards as the server knows them now:")
        print_table(
            ["card_id", *FEATURES],
            [[_rounded(row[name]) for name in ("card_id", *FEATURES)] for row in answer.to_pylist()],
        )
        sys.stdout.flush()


def _tell_results(stage: "Stage", stream: "TransactionStream") -> None:
    import polars as pl

    from featurestore.offline import archive_counts

    # Drained, the worker has written everything.
    stage.stop("worker")
    offline = stage.data_dir / "offline"
    counts = archive_counts(offline, SOURCE)
    made = stream.made
    print_line(f"\nsent in this run: {made.total:,} messages, {made.late:,} late, {sum(made.dead.values()):,} broken")
    letters = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.dead_letters.items())) or "none"
    print_line(
        f"in the archive, all runs: {counts.accepted:,} accepted, {counts.late:,} too late, dead letters: {letters}"
    )
    print_line(f"\nParquet under {offline}:")
    rows = []
    for folder in sorted(offline.glob("features/*/v*/*")):
        height = pl.scan_parquet(folder / "*.parquet").select(pl.len()).collect().item()
        rows.append([str(folder.relative_to(offline)), height])
    print_table(["snapshots", "rows"], rows)


def _tell_next(stage: "Stage", url: str, keep_running: bool) -> None:
    name = stage.folder.name
    if keep_running:
        stage.start("worker", "run", "pipelines/transactions.py", "--apply")
        body = '{"features":["card_activity:count_1h"],"entities":{"card_id":["card_000001"]}}'
        print_line(
            f"\nBroker, worker and server stay until Ctrl-C. Try:\n  curl -s {url}/get-online-features -d '{body}'"
        )
    snapshots = "data/offline/features/card_activity/v1/sliding/*.parquet"
    print_line(
        f"\nWhat to try next, in {name}/:\n"
        "  featurestore get card_activity:count_1h -e card_id=card_000001 --as-of latest\n"
        "  featurestore status\n"
        f"  python -c \"import polars as pl; print(pl.read_parquet('{snapshots}'))\"\n"
        "  edit pipelines/transactions.py, then: featurestore plan pipelines/transactions.py"
    )
    sys.stdout.flush()


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

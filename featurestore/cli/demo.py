"""`featurestore demo`: the whole road on the generated events of an example, on this machine alone."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import EXAMPLE_NAMES, check_example
from featurestore.cli.output import print_line, print_table
from featurestore.examples import BY_NAME, DEFAULT, Example, Span

if TYPE_CHECKING:
    from featurestore.cli.demo_progress import WorkerProgress
    from featurestore.cli.demo_screen import Screen
    from featurestore.cli.demo_stage import Stage
    from featurestore.client import FeatureStoreClient

EXAMPLES = (
    "Examples: [bold]featurestore demo[/bold]   [bold]featurestore demo --keep-running[/bold]   "
    "[bold]featurestore demo --example sensors[/bold]   [bold]featurestore demo --dir /tmp/demo --events 500000[/bold]"
)
EVENTS_PER_S = 10_000
"""How fast events are sent: 150,000 in 15 seconds, three hours of event time."""

LOOK_EVERY, LOOK_AGAIN_S, STAY_CHECK_S = 2_000, 0.05, 0.5
SERVER_CATCHES_UP_S = 0.3
UNREAD_MAX = 20_000
"""The embedded broker forgets what overruns it (about 5 MB a partition): so many messages may be unread at a time."""


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="The demo's project folder; made if needed.")] = Path(
        "featurestore-demo"
    ),
    example: Annotated[
        str,
        typer.Option(metavar=EXAMPLE_NAMES, callback=check_example, help="The example to run; see init --template."),
    ] = DEFAULT,
    events: Annotated[int, typer.Option(min=1_000, help="How many events to send.")] = 150_000,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Stay until Ctrl-C when all is read.")] = False,
) -> None:
    """Run everything once: broker, events, worker, server, reads; no Java, no containers, no configuration.

    Events come out of order, some late, some broken. Ends by itself in about half a minute, and works again in the
    same folder, for another example too: a new broker is a new topic generation.
    """
    try:
        _run(directory.resolve(), BY_NAME[example], events, keep_running)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _run(folder: Path, example: Example, events: int, keep_running: bool) -> None:
    from featurestore.cli.demo_progress import choose_span, free_port, newest_event_us
    from featurestore.cli.demo_stage import Stage
    from featurestore.client import FeatureStoreClient

    url = f"http://127.0.0.1:{free_port()}"
    with Stage(folder, example) as stage:
        print_line(f"Demo in {stage.folder}: a broker, a worker and a server of its own; their logs are in logs/.")
        start_us, span_us = choose_span(newest_event_us(stage.data_dir, example.source), time.time_ns() // 1_000)
        span = Span(events, start_us, span_us, seed=start_us // 1_000_000)
        stage.start("broker", "broker")
        stage.wait(lambda: stage.broker_address() is not None, "the embedded broker")
        stage.start("server", "serve", "--port", url.rpartition(":")[2], "--clock", "event")
        with FeatureStoreClient(url, retries=0) as client:
            progress = _play(stage, client, example, span)
        _tell_results(stage, example, progress)
        _tell_next(stage, example, url, keep_running)
        if keep_running:
            _stay(stage)


def _play(stage: "Stage", client: "FeatureStoreClient", example: Example, span: Span) -> "WorkerProgress":
    from featurestore.cli.demo_progress import free_port
    from featurestore.cli.demo_screen import Screen
    from featurestore.sources.produce import MessageSender

    address = stage.broker_address()
    assert address is not None
    events = span.events
    # Made before the worker starts: the first client's question makes the topic.
    sender = MessageSender(address.bootstrap_servers, example.source, {})
    port = free_port()
    stage.start("worker", "run", example.module, "--apply", FEATURESTORE_WORKER__METRICS_PORT=str(port))
    with Screen(events) as screen:
        watch = _Watch(stage, client, example, screen, port, events)
        stage.wait(watch.look, "the worker")
        began_at = time.monotonic()
        for number, (key, value) in enumerate(example.stream(span), start=1):
            sender.send(value, key)
            if number % LOOK_EVERY == 0:
                sender.flush()
                watch.sent = number
                while not watch.look() or number - watch.progress.read > UNREAD_MAX:
                    time.sleep(LOOK_AGAIN_S)
                time.sleep(max(0.0, began_at + number / EVENTS_PER_S - time.monotonic()))
        sender.flush()
        watch.sent = events
        stage.wait(lambda: watch.look() and watch.progress.processed >= events, "the worker to process everything", 120)
        # The server catches up with the last commit.
        time.sleep(SERVER_CATCHES_UP_S)
        screen.show(events, watch.progress, now=True)
        watch.show_some()
    return watch.progress


class _Watch:
    """Follows the worker's progress, and reads some entities through the client while they change."""

    def __init__(
        self,
        stage: "Stage",
        client: "FeatureStoreClient",
        example: Example,
        screen: "Screen",
        metrics_port: int,
        events: int,
    ) -> None:
        from featurestore.cli.demo_progress import WorkerProgress

        self._stage = stage
        self._client = client
        self._example = example
        self._screen = screen
        self._port = metrics_port
        self._events = events
        self._next_shown = events // 3
        self.sent = 0
        self.progress = WorkerProgress()

    def look(self) -> bool:
        """Take stock; whether the worker has answered."""
        from featurestore.cli.demo_progress import read_progress

        self._stage.check()
        progress = read_progress(self._port)
        if progress is None:
            return False
        self.progress = progress
        self._screen.show(self.sent, progress)
        if self._next_shown <= progress.processed < self._events:
            self._next_shown += self._events // 3
            self.show_some()
        return True

    def show_some(self) -> None:
        """Ask the server for some entities, and print what it says."""
        from featurestore.errors import ServerUnavailableError

        example = self._example
        try:
            answer = self._client.get_online_features(
                features=[f"{example.shown_view}:{name}" for name in example.shown_features],
                entities={key: list(values) for key, values in example.shown_entities.items()},
            )
        except ServerUnavailableError:
            return  # it is still starting; the next look will find it
        print_line(f"\n{self.progress.processed:,} of {self._events:,} processed; what the server answers now:")
        columns = [*example.shown_entities, *example.shown_features]
        rows = [[_rounded(row[name]) for name in columns] for row in answer.to_pylist()]
        print_table(columns, rows, key_columns=len(example.shown_entities))
        print_line("")
        sys.stdout.flush()


def _stay(stage: "Stage") -> None:
    try:
        while True:
            stage.check()
            time.sleep(STAY_CHECK_S)
    except KeyboardInterrupt:
        print_line("Stopping worker, server and broker.")


def _tell_results(stage: "Stage", example: Example, progress: "WorkerProgress") -> None:
    import polars as pl

    from featurestore.offline import archive_counts, list_files

    # Drained, the worker has written everything.
    stage.stop("worker")
    offline = stage.data_dir / "offline"
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(progress.dead_letters.items())) or "none"
    print_line(
        f"{progress.read:,} messages read = {progress.accepted:,} accepted ({progress.behind:,} of them late) + "
        f"{progress.too_late:,} too late + {progress.dead:,} dead letters ({reasons})"
    )
    counts = archive_counts(offline, example.source)
    print_line(
        f"In the archive, all demos of this folder: {counts.accepted:,} accepted, {counts.late:,} too late, "
        f"{sum(counts.dead_letters.values()):,} dead letters"
    )
    print_line(f"\nParquet under {offline}:")
    rows = []
    for folder in sorted(path for path in offline.glob("features/*/v*/*") if path.is_dir()):
        height = pl.scan_parquet(list_files(offline, folder)).select(pl.len()).collect().item()
        rows.append([str(folder.relative_to(offline)), height])
    print_table(["snapshots", "rows"], rows)


def _tell_next(stage: "Stage", example: Example, url: str, keep_running: bool) -> None:
    # Installed, but not on the PATH, as after `python3 dev.py demo`: then by the interpreter that runs this.
    program = "featurestore" if shutil.which("featurestore") else f"{sys.executable} -m featurestore"
    feature = f"{example.shown_view}:{example.shown_features[0]}"
    entity = {key: values[0] for key, values in example.shown_entities.items()}
    if keep_running:
        stage.start("worker", "run", example.module, "--apply")
        body = json.dumps({"features": [feature], "entities": {key: [value] for key, value in entity.items()}})
        print_line(
            f"\nBroker, worker and server stay until Ctrl-C. Try:\n  curl -s {url}/get-online-features -d '{body}'"
        )
    keys = " ".join(f"-e {key}={value}" for key, value in entity.items())
    snapshots = f"data/offline/features/{example.shown_view}/v1/sliding/*.parquet"
    print_line(
        f"\nWhat to try next, after cd {stage.folder}:\n"
        f"  {program} get {feature} {keys}\n"
        f"  {program} status\n"
        f"  {sys.executable} -c \"import polars as pl; print(pl.read_parquet('{snapshots}'))\"\n"
        f"  edit {example.module}, then: {program} plan {example.module}"
    )
    sys.stdout.flush()


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value

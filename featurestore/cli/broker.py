"""`featurestore broker`: hosts the embedded broker until it is told to stop."""

import signal
import sys
import time
from types import FrameType

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line

EXAMPLES = "Example: [bold]featurestore broker[/bold], and in another terminal the other commands"

STOP_CHECK_S = 0.1


def broker(data_dir: DataDir = None, json: Json = False) -> None:
    """Host the embedded broker, for development; it forgets everything when it stops.

    Commands of the same project find it by themselves; the address is for other clients.
    """
    from featurestore.sources.embedded import EmbeddedBroker

    settings = load_settings(data_dir)
    # A plain flag: setting an Event in a signal handler can deadlock with the wait that it interrupts.
    stopped: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with EmbeddedBroker(settings.store.data_dir) as running:
        assert running.address is not None
        if json:
            print_json(running.address)
        else:
            print_line(f"Embedded broker at {running.address.bootstrap_servers}; Ctrl-C stops it.")
        sys.stdout.flush()
        while not stopped:
            time.sleep(STOP_CHECK_S)

"""A worker's share in a process of its own, to be killed.

`python -m tests.serving.writer_process DATA_DIR CARD` commits one event of the card after another until it
ends, and prints a line for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.serving.support import NOON, Writer, event


def main() -> None:
    writer = Writer(Path(sys.argv[1]))
    while True:
        writer.commit([event(sys.argv[2], at_us=NOON)])
        sys.stdout.write("committed\n")
        sys.stdout.flush()
        time.sleep(0.01)


if __name__ == "__main__":
    main()

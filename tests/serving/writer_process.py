"""A worker's share in a process of its own, to be killed.

`python -m tests.serving.writer_process DATA_DIR CARD [OTHERS]` commits one event of the card after another until it
ends, each with one of so many other cards, and prints a line for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.serving.support import NOON, Writer, event


def main() -> None:
    writer = Writer(Path(sys.argv[1]))
    others = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    while True:
        writer.commit([event(card, at_us=NOON) for card in (sys.argv[2], *(f"other{n}" for n in range(others)))])
        sys.stdout.write("committed\n")
        sys.stdout.flush()
        time.sleep(0.01)


if __name__ == "__main__":
    main()

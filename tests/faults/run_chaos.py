"""`python -m tests.faults.run_chaos --seed 7 --minutes 20`: chaos for long, with what it does on the way and found.

Exits with 1 when a store differs, a reader was told something wrong, or memory, threads or files grew.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from featurestore.observability import configure_logging
from tests.faults.chaos import Report, chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0)
    asked = parser.parse_args()
    configure_logging("error")
    console = Console()
    began = time.monotonic()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {what}", highlight=False)

    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with chaos(folder, asked.seed, port) as one:
        try:
            report = one.run(asked.minutes * 60, tell)
        except AssertionError as error:
            console.print(
                f"seed {asked.seed}, its logs and stores are in {folder}: {error}", style="red", highlight=False
            )
            return 1
    shutil.rmtree(folder)
    console.print(table_of(report))
    for line in report.grown():
        console.print(line, style="red")
    return 1 if report.grown() else 0


def table_of(report: Report) -> Table:
    """The report for people."""
    table = Table(title=f"seed {report.seed}: both stores are those of an undisturbed run", show_header=False)
    table.add_row("faults", f"{len(report.faults)}, of {len(set(report.faults))} kinds")
    table.add_row("messages", f"{report.messages:,}")
    table.add_row("reads", f"{report.answers:,} answered, {report.refused:,} refused or cut off")
    table.add_row("longest time without an answer", f"{report.longest_silence_s:.1f} s")
    for half, figures in (("first half", report.early), ("second half", report.late)):
        for role, most in figures.items():
            told = f"{most.rss_mb} MB, {most.threads} threads, {most.open_files} open files"
            table.add_row(f"{role}, {half}, most of a process", told)
    for store, early in report.early_files.items():
        table.add_row(f"files of the {store} store, most", f"{early:,}, then {report.late_files[store]:,}")
    return table


if __name__ == "__main__":
    sys.exit(main())

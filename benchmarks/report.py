"""Tables for people, and their place in benchmarks/README.md. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.measure import machine

README = Path(__file__).resolve().parent / "README.md"


def aligned(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Rows of cells as columns; the first `texts` columns are flush left, the others flush right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < texts else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def record(lines: str, job: str, section: str = "figures", readme: Path = README) -> None:
    """Put the table, the machine and the job between the README's marks of a section."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(begin, 1)
    _, tail = rest.split(end, 1)
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    today = datetime.now(timezone.utc).date().isoformat()
    figures = f"{job}, on {today}\nMachine: {about}\n\n```text\n{lines}\n```\n"
    readme.write_text(f"{head}{begin}\n\n{figures}\n{end}{tail}", encoding="utf-8")

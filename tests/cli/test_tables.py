"""Tables in a terminal of 80 columns: every figure and name whole, on a real terminal's screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.cli.table_layout import GAP, lay_out, wrap
from featurestore.examples import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import ROOT, answer, run_until_end, send

COLUMNS = 80


def on_a_terminal(project: Path, *arguments: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "featurestore", *arguments],
        cwd=project,
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
    )
    os.close(its)
    written = b""
    try:
        while chunk := os.read(ours, 65_536):
            written += chunk
    except OSError:  # Linux' way to say that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that has read a stream with late events and dead letters, and whose broker is still there."""
    folder = tmp_path_factory.mktemp("tables") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=5_000, broken_share=0.01, too_late_share=0.01)))
        run_until_end(folder)
        yield folder


def test_status_breaks_no_word_and_fits_the_terminal(project: Path) -> None:
    report = answer(project, "status", "--disk")
    shown = on_a_terminal(project, "status", "--disk")
    assert max(len(line) for line in shown.splitlines()) <= COLUMNS
    words = shown.split()
    (source,) = report["sources"]
    for view in report["views"]:
        for told in (view["name"], view["watermark"], view["newest_event"], f"{view['applied']:,}"):
            assert told in words
    for told in (source["generation"], f"{source['accepted']:,}", "partitions", "generation", "revisions", "offline"):
        assert told in words


def test_other_reports_break_no_word(project: Path) -> None:
    datasets = answer(project, "offline", "ls")["datasets"]
    watermarks = answer(project, "watermark", "show")
    letters = answer(project, "dead-letters", "ls")
    assert datasets
    assert watermarks
    assert letters
    expected = {
        ("offline", "ls"): [part for one in datasets for part in path_parts(one["dataset"])],
        ("watermark", "show"): [view[name] for view in watermarks for name in ("name", "source", "watermark")],
        ("dead-letters", "ls"): ["malformed", "transactions"],
    }
    for arguments, told in expected.items():
        shown = on_a_terminal(project, *arguments)
        assert max(len(line) for line in shown.splitlines()) <= COLUMNS
        assert set(told) <= {part for word in shown.split() for part in path_parts(word)}


def path_parts(path: str) -> list[str]:
    """The pieces between which a path may be broken."""
    return [part for part in path.split("/") if part]


def test_leading_keys_become_headings_where_a_table_is_too_wide(project: Path) -> None:
    shown = on_a_terminal(project, "offline", "verify", "--sample", "3").replace("\r", "")
    heading = shown.index("card_activity · online")
    table = shown[heading:].split("\n\n")[0].splitlines()
    assert max(len(line) for line in table) <= COLUMNS
    assert table[1].split() == ["feature", "compared", "equal", "different", "missing", "extra"]
    assert ["count_1h", "3", "3", "0", "0", "0"] in [line.split() for line in table]


def test_a_path_wraps_behind_its_slashes_and_a_word_stays_whole() -> None:
    assert wrap("features/card_activity/v1/sliding", 16) == "features/\ncard_activity/\nv1/sliding"
    assert wrap("some words here", 10) == "some words\nhere"


def test_what_does_not_fit_goes_below_with_its_key() -> None:
    # room for "key" and two columns of ten, not for three
    tables = lay_out(["key", "a", "b", "c"], [["k", "x" * 10, "y" * 10, "z" * 10]], 1, 3 + 2 * (GAP + 10))
    assert [[column.position for column in table] for table in tables] == [[0, 1, 2], [0, 3]]


def test_headers_wrap_before_a_table_is_parted() -> None:
    (table,) = lay_out(["view", "beyond retention"], [["v", "1"]], 1, len("view") + GAP + len("retention"))
    assert [column.width for column in table] == [len("view"), len("retention")]


def test_a_sentence_wraps_where_a_figure_does_not() -> None:
    (table,) = lay_out(["level", "message"], [["warning", "a word and more " * 10]], 1, 40)
    assert sum(column.width for column in table) + GAP == 40


cells = st.text("ab é漢", max_size=60)


@given(
    width=st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    key_columns=st.integers(1, 2),
    room=st.integers(30, 120),
)
def test_every_column_is_shown_once_and_no_table_is_too_wide(
    width: list[list[str]], key_columns: int, room: int
) -> None:
    names, *rows = width
    tables = lay_out(names, rows, key_columns, room)
    beside = [column.position for table in tables for column in table[key_columns:]]
    assert beside == list(range(key_columns, len(names)))
    for table in tables:
        assert [column.position for column in table[:key_columns]] == list(range(key_columns))
        assert sum(column.width for column in table) + GAP * (len(table) - 1) <= room

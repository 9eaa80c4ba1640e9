"""What was replayed, kept so that no message is sent twice: an append-only file of one source.

Lines come in pairs. `begun` is durable before the first message of a chunk is sent: it names the messages and where
the topic ended by then. `done` is written once they are committed in the topic. A `begun` without its `done` is a chunk
that a crash cut off: whether it is in the topic is found there, behind the recorded ends, before anything else is sent.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Union

import msgspec

from featurestore.errors import StoreFormatError, StoreLockedError
from featurestore.namespaces import folder_name
from featurestore.sources.verdicts import full_error, write_all


class Origin(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A message by its place: generation of the topic, partition, offset."""

    generation: str
    partition: int
    offset: int


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A chunk about to be sent. generation: of the topic it goes to; ends: by partition, where the topic ended."""

    chunk: str
    at: str
    generation: str
    ends: dict[int, int]
    origins: list[Origin]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A chunk that is settled. sent: those of its messages that are in the topic, or may be."""

    chunk: str
    at: str
    sent: list[Origin]


_LINE = msgspec.json.Decoder(Union[Begun, Done])


def journal_path(data_dir: Path, source: str) -> Path:
    """Where the journal of a source lies."""
    return data_dir / "replays" / folder_name(source) / "journal.jsonl"


def read_replayed(path: Path) -> set[Origin]:
    """Messages that were sent, or may have been: those of a chunk that was cut off too. Needs no lock."""
    begun, done = _read(path)
    sent = {origin for line in done.values() for origin in line.sent}
    return sent | {origin for chunk, line in begun.items() if chunk not in done for origin in line.origins}


class ReplayJournal:
    """The journal, opened for one replay at a time; see `open_journal`."""

    def __init__(self, path: Path, file: int) -> None:
        self._file = file
        begun, done = _read(path)
        self._sent = {origin for line in done.values() for origin in line.sent}
        unsettled = [line for chunk, line in begun.items() if chunk not in done]
        assert len(unsettled) <= 1, "a chunk is settled before the next one begins"
        self.unsettled: Begun | None = unsettled[0] if unsettled else None

    @property
    def sent(self) -> set[Origin]:
        """Messages that are settled as sent."""
        return self._sent

    def begin(self, line: Begun) -> None:
        """Make it durable that a chunk is about to be sent."""
        assert self.unsettled is None, "the chunk before is not settled"
        self._append(line)
        self.unsettled = line

    def settle(self, sent: Sequence[Origin], at: str) -> None:
        """Make it durable what of the chunk is in the topic; the rest may be sent again."""
        assert self.unsettled is not None
        self._append(Done(self.unsettled.chunk, at, list(sent)))
        self._sent |= set(sent)
        self.unsettled = None

    def _append(self, line: Begun | Done) -> None:
        try:
            write_all(self._file, msgspec.json.encode(line) + b"\n")
            os.fsync(self._file)
        except OSError as error:
            raise full_error(error) from error


@contextmanager
def open_journal(data_dir: Path, source: str) -> Iterator[ReplayJournal]:
    """Lock and open a source's journal; a line that a crash cut off is removed: nothing was sent after it.

    Raises StoreLockedError while another replay of the source runs, StoreFormatError when the journal is damaged.
    """
    path = journal_path(data_dir, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreLockedError(
                f"messages of source '{source}' are being replayed by another process", hint="wait until it has ended"
            ) from None
        content = path.read_bytes()
        os.ftruncate(file, content.rfind(b"\n") + 1)
        os.fsync(file)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        yield ReplayJournal(path, file)
    finally:
        os.close(file)


def _read(path: Path) -> tuple[dict[str, Begun], dict[str, Done]]:
    begun: dict[str, Begun] = {}
    done: dict[str, Done] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return begun, done
    for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            line = _LINE.decode(text)
        except msgspec.DecodeError as error:
            raise StoreFormatError(
                f"{path} line {number} can't be understood ({error})",
                hint="restore it from a copy: without it messages could be replayed twice",
            ) from error
        if isinstance(line, Begun):
            begun[line.chunk] = line
        else:
            done[line.chunk] = line
    return begun, done

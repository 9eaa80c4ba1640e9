"""What a rebuild remembers between its steps, so that a killed one goes on.

rebuild/<source>/rebuild.json       which views it computes, from which generations of the archive
rebuild/<source>/online/…, offline/…    stores of its own, laid out as a data_dir has them
rebuild/<source>/exchange.json      the new store is taking the old one's place: nothing runs before it has
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

from featurestore.errors import StoreFormatError
from featurestore.offline.atomic import make_folder, remove_durably, write_atomically
from featurestore.online import layout
from featurestore.online.source_store import LOCK_NAME, REBUILD_GATE, rebuild_dir

FORMAT_VERSION = 1
_RECORD = "rebuild.json"
_Document = TypeVar("_Document", bound=msgspec.Struct)


class Rebuilding(msgspec.Struct, frozen=True):
    """What is computed. reads: by "view@version", the generations of the archive that the view is made from."""

    format_version: int
    source: str
    reads: dict[str, list[str]]


class Exchange(msgspec.Struct, frozen=True):
    """The hand-over under way. set_aside: where the old store goes, relative to the data_dir. kept_us: by
    "view@version", up to which window end its snapshots stay as they are; lines_us: up to which the new ones are
    final; NO_TIME for none. snapshots_done: they are exchanged.
    """

    set_aside: str
    kept_us: dict[str, int]
    lines_us: dict[str, int]
    snapshots_done: bool = False


def read_rebuilding(data_dir: Path, source: str) -> Rebuilding | None:
    """What a rebuild that was begun computes, None when there is none, or one of another format."""
    found = _read(rebuild_dir(data_dir, source) / _RECORD, Rebuilding)
    return found if found is not None and found.format_version == FORMAT_VERSION else None


def write_rebuilding(data_dir: Path, rebuilding: Rebuilding) -> None:
    """Write it down, durably."""
    _write(rebuild_dir(data_dir, rebuilding.source) / _RECORD, rebuilding)


def read_exchange(data_dir: Path, source: str) -> Exchange | None:
    """The hand-over under way, None when none is."""
    return _read(rebuild_dir(data_dir, source) / REBUILD_GATE, Exchange)


def write_exchange(data_dir: Path, source: str, exchange: Exchange) -> None:
    """Begin a hand-over, or say how far it has come, durably."""
    _write(rebuild_dir(data_dir, source) / REBUILD_GATE, exchange)


def clear_rebuild(data_dir: Path, source: str) -> None:
    """Forget a rebuild, and what it computed. The caller holds its lock."""
    folder = rebuild_dir(data_dir, source)
    remove_durably([folder / REBUILD_GATE, folder / _RECORD])
    shutil.rmtree(folder / "offline", ignore_errors=True)
    # The lock file stays: whoever waits for it must wait for this very file.
    for child in layout.source_dir(folder, source).glob("*"):
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        elif child.name != LOCK_NAME:
            child.unlink()


def _read(path: Path, kind: type[_Document]) -> _Document | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreFormatError(f"{path} can't be understood ({error})", hint=f"remove {path.parent}") from error


def _write(path: Path, document: msgspec.Struct) -> None:
    make_folder(path.parent)
    content = msgspec.json.format(msgspec.json.encode(document)) + b"\n"
    write_atomically(path, lambda file: file.write(content))

"""Where a backfill computes its views, apart from what is served, until they are whole.

    backfill/<source>/staging.json            which views, and whether they are whole
    backfill/<source>/online/…, offline/…     stores of these views alone, laid out as a data_dir has them

One for each source at a time. Nothing here is ever read by a server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from featurestore.errors import StoreFormatError
from featurestore.namespaces import folder_name
from featurestore.offline.atomic import make_folder, sync_folders, write_atomically
from featurestore.online import layout
from featurestore.online.source_store import LOCK_NAME

FORMAT_VERSION = 1


class StagedView(msgspec.Struct, frozen=True):
    """A view version that is being filled."""

    name: str
    view_id: int
    version: int


class Staging(msgspec.Struct, frozen=True):
    """What staging.json says. whole: all that was archived when the backfill ended is in. taken: the source's shards
    may hold some of it already, and nothing else of these views.
    """

    format_version: int
    source: str
    views: tuple[StagedView, ...]
    whole: bool = False
    taken: bool = False


def staging_dir(data_dir: Path, source: str) -> Path:
    """The data_dir of a source's backfill."""
    return data_dir / "backfill" / folder_name(source)


def read_staging(data_dir: Path, source: str) -> Staging | None:
    """The source's backfill, None when there is none. Raises StoreFormatError when it can't be understood."""
    path = _marker(data_dir, source)
    try:
        staging = msgspec.json.decode(path.read_bytes(), type=Staging)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreFormatError(f"{path} can't be understood ({error})", hint=f"remove {path.parent}") from error
    if staging.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format version {staging.format_version}, this program writes {FORMAT_VERSION}",
            hint="finish the backfill with the version of featurestore that began it, or give it up: "
            "featurestore backfill MODULE --abandon",
        )
    return staging


def write_staging(data_dir: Path, staging: Staging) -> None:
    """Write it down, durably."""
    path = _marker(data_dir, staging.source)
    make_folder(path.parent)
    content = msgspec.json.format(msgspec.json.encode(staging)) + b"\n"
    write_atomically(path, lambda file: file.write(content))


def clear_staging(data_dir: Path, source: str) -> None:
    """Forget a source's backfill, whole or not, and what a crash left of an earlier one. The caller holds its lock."""
    path = _marker(data_dir, source)
    if path.exists():
        path.unlink()
        sync_folders([path.parent])
    staged = staging_dir(data_dir, source)
    shutil.rmtree(staged / "offline", ignore_errors=True)
    # The lock file stays: whoever waits for it must wait for this very file.
    for child in layout.source_dir(staged, source).glob("*"):
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        elif child.name != LOCK_NAME:
            child.unlink()


def _marker(data_dir: Path, source: str) -> Path:
    return staging_dir(data_dir, source) / "staging.json"

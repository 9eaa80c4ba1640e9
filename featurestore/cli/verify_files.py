"""Hold the files of sources and views against their checksums, before what is in them is compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from featurestore.errors import StoreError, StoreFormatError
from featurestore.offline import layout
from featurestore.offline.integrity import damaged_files
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, source_dir
from featurestore.online.integrity import damaged_shards
from featurestore.registry import RegisteredView

MOST_TOLD = 20


def check_files(data_dir: Path, views: Iterable[RegisteredView], *, whole: bool) -> None:
    """Raise StoreFormatError naming every damaged file and shard of the views and of their sources, and the ways out.

    whole: read all of the Parquet files, else their footers alone; shards are read in both cases.
    """
    root = data_dir / "offline"
    found: list[StoreError] = []
    sources = set()
    for view in views:
        sources.add(view.spec.source)
        found += damaged_files(root, layout.version_dir(root, view.spec.name, view.version), whole=whole)
    for source in sorted(sources):
        found += damaged_shards(data_dir, source)
        for kind in (EVENTS, LATE, DEAD_LETTER):
            found += damaged_files(root, source_dir(root, kind, source), whole=whole)
    if found:
        raise _together(found)


def _together(found: Sequence[StoreError]) -> StoreFormatError:
    told = [error.message for error in found[:MOST_TOLD]]
    left = len(found) - len(told)
    ways = dict.fromkeys(error.hint for error in found if error.hint is not None)
    return StoreFormatError(
        "\n".join([*told, *([f"and {left:,} more"] if left else [])]), hint="\nor, by file: ".join(ways)
    )

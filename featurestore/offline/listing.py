"""Which files a reader of a dataset must read: the one way to them, exact at every moment of a compaction.

A plain glob is exact too, except in the instant in which a compacted file appears and the files that it replaces go.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from featurestore.offline import layout
from featurestore.offline.manifest import Manifest, read_manifest

Result = TypeVar("Result")

ATTEMPTS = 5


def list_files(root: Path, folder: Path) -> list[Path]:
    """Every Parquet file below `folder` that holds rows of its dataset, each row in one of them, sorted.

    root: of the offline store; folder: a dataset, or a part of one. A file that a compaction is about to swap in lies
    under another folder; its name and the last folders of its path are as they will be. The files stay for a grace
    period (`featurestore offline compact --grace`): who reads later gets FileNotFoundError and has to list again.
    """
    while True:
        manifest = read_manifest(root)
        found = [path for path in folder.rglob(f"*{layout.SUFFIX}") if not path.name.startswith(".")]
        # The same before and after: so it said which of these files count while the folders were being read.
        if read_manifest(root) == manifest:
            return _visible(root, folder, found, manifest)


def segment_files(folder: Path) -> list[tuple[int, Path]]:
    """(first offset, path) of every segment file of a partition's folder, ascending; compacted ones among them."""
    if not folder.is_dir():
        return []
    found = ((layout.segment_start(path), path) for path in list_files(layout.store_of(folder), folder))
    return sorted((start, path) for start, path in found if start is not None)


def newest_segment(folder: Path) -> Path | None:
    """The file of the newest segment in a partition's folder."""
    files = segment_files(folder)
    return files[-1][1] if files else None


def with_fresh_files(read: Callable[[], Result]) -> Result:
    """What `read` gives, which lists files and reads them; again when one of them went before it was opened."""
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def _visible(root: Path, folder: Path, found: list[Path], manifest: Manifest) -> list[Path]:
    if not manifest.swaps:
        return sorted(found)
    hidden: set[Path] = set()
    staged: list[Path] = []
    for swap in manifest.swaps:
        place = root / swap.folder
        if place != folder and folder not in place.parents:
            continue
        hidden.update(place / name for name in swap.replaced)
        if swap.merged is not None:
            hidden.add(place / swap.merged)
            staged.append(layout.staged_path(root, swap.folder, swap.merged))
    return sorted([path for path in found if path not in hidden] + staged)

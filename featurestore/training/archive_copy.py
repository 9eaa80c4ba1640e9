"""A small copy of the archive whose future can be written otherwise: what was before an instant must not notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, OFFSET
from featurestore.compile.columns import conform
from featurestore.compile.keys import encoded_key
from featurestore.offline.listing import with_fresh_files
from featurestore.offline.tables import read_footer, read_frame, write_frame
from featurestore.training.archive import files_between
from featurestore.training.manifest import Manifest
from featurestore.training.manifest_views import ManifestView
from featurestore.training.spine import Spine

_EVER_US = 2**62


@dataclass(frozen=True)
class ArchivedFile:
    """A file of the copy. path: below the data directory; rows: the spine's entities' alone; footer: as it was."""

    path: Path
    rows: pl.DataFrame
    footer: bytes


def copy_archive(data_dir: Path, views: Sequence[ManifestView], manifest: Manifest, spine: Spine) -> list[ArchivedFile]:
    """The events of the spine's entities, as far as the manifest read the archive, in memory; reads it all once."""
    by_source: dict[str, list[ManifestView]] = {}
    for view in views:
        by_source.setdefault(view.source.name, []).append(view)
    return [file for own in by_source.values() for file in _copy_source(data_dir, own, manifest, spine)]


def _copy_source(data_dir: Path, views: Sequence[ManifestView], manifest: Manifest, spine: Spine) -> list[ArchivedFile]:
    source = views[0].source
    keys = {view.bound.compiled.spec.join_keys: None for view in views}
    wanted = {key: spine.keys.select(encoded_key(key)).to_series().drop_nulls().unique() for key in keys}
    names = {column.name for key in keys for column in key}

    def read() -> list[ArchivedFile]:
        found = []
        for file in files_between(data_dir / "offline", source.name, manifest.archive[source.name], None, _EVER_US):
            rows = read_frame(file.path)
            members = conform(rows, source.columns, names).select(
                pl.any_horizontal(encoded_key(key).is_in(known.implode()) for key, known in wanted.items())
            )
            mask = members.to_series().fill_null(False) & (rows[OFFSET] < file.end)
            found.append(ArchivedFile(file.path.relative_to(data_dir), rows.filter(mask), read_footer(file.path)[1]))
        return found

    return with_fresh_files(read)


def write_archive(folder: Path, files: Sequence[ArchivedFile], change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write the files below `folder`, each with its rows changed; what lay there under their names is replaced."""
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            write_frame(out, change(file.rows), footer=file.footer, statistics=[EVENT_TIME, ARRIVAL_TIME, OFFSET])

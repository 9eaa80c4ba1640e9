"""Of which definitions the rows in a store are: written down when a view version begins, compared at every start.

    online/<source>/views.json      by "<view id>/<version>" the specification

A row says neither its view's name nor its columns: those are the registry's to know. A registry that was made anew, or
comes from an older backup, may give an id and version to something else, whose rows would then be read from bytes that
mean another thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from featurestore.compile.view import CompiledView
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import ViewSpec
from featurestore.errors import StoreFormatError
from featurestore.online import layout
from featurestore.online.rocks import rocks_errors, way_out


def check_views(data_dir: Path, source: str, views: Sequence[CompiledView]) -> None:
    """Raise StoreFormatError when the store has rows of another definition under the id and version of a view."""
    stored = _read(data_dir, source)
    for view in views:
        text = stored.get(_key(view))
        if text is None:
            continue
        before = msgspec.json.decode(text, type=ViewSpec)
        if before.name != view.name or fingerprint(before) != fingerprint(view.spec):
            now = f"another definition of '{view.name}'" if before.name == view.name else f"view '{view.name}'"
            raise StoreFormatError(
                f"{_path(data_dir, source)}: the store has rows of version {view.version} of view '{before.name}'; in "
                f"the registry that number stands for {now}",
                hint="the registry is not the one that the store was made with: bring that back (featurestore restore "
                "FOLDER), or make the store again by the present definitions: "
                f"featurestore rebuild {source} --snapshots",
            )


def note_views(data_dir: Path, source: str, views: Sequence[CompiledView]) -> None:
    """Write down the definitions of views that are new in the store, durably. After `check_views`."""
    stored = _read(data_dir, source)
    new = {_key(view): msgspec.json.encode(view.spec).decode() for view in views if _key(view) not in stored}
    if not new:
        return
    path = _path(data_dir, source)
    temporary = path.with_suffix(".tmp")
    with rocks_errors(path.parent):
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode({**stored, **new})) + b"\n")
        temporary.replace(path)


def _read(data_dir: Path, source: str) -> dict[str, str]:
    path = _path(data_dir, source)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise StoreFormatError(f"{path} is damaged ({error})", hint=way_out(path.parent / "shard")) from error


def _path(data_dir: Path, source: str) -> Path:
    return layout.source_dir(data_dir, source) / "views.json"


def _key(view: CompiledView) -> str:
    return f"{view.view_id}/{view.version}"

"""What a backup says of itself: backup.json, written last, so that a folder without it is no backup.

backup.json
data/<path relative to the data_dir>
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from featurestore.errors import StoreError, StoreFormatError
from featurestore.offline.atomic import write_atomically

FORMAT_VERSION = 1
NAME = "backup.json"
DATA = "data"


class BackupFile(msgspec.Struct, frozen=True, array_like=True):
    """One file. modified_ns: of the original; digest: BLAKE2b of its bytes, 32 hex digits."""

    path: str
    size: int
    modified_ns: int
    digest: str


class BackupManifest(msgspec.Struct, frozen=True):
    """made_at: when all was as it is here, ISO 8601 UTC. store_format: of the online stores. registry: whether the
    registry is in it; not when it is in PostgreSQL."""

    format_version: int
    store_format: int
    featurestore: str
    made_at: str
    sources: list[str]
    registry: bool
    files: list[BackupFile]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


def write_manifest(folder: Path, manifest: BackupManifest) -> None:
    """Make a folder of copied files a backup, durably."""
    content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    write_atomically(folder / NAME, lambda file: file.write(content))


def read_manifest(folder: Path) -> BackupManifest:
    """What a backup says. Raises StoreError when there is none, StoreFormatError for another or a damaged format."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{folder} is no backup: there is no {NAME} ({error.strerror})",
            hint="a backup that was cut off has none: take another one",
        ) from error
    try:
        manifest = msgspec.json.decode(content, type=BackupManifest)
    except msgspec.DecodeError as error:
        raise StoreFormatError(f"{path} can't be understood ({error})", hint="use another backup") from error
    if manifest.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}",
            hint=f"restore it with featurestore {manifest.featurestore}, which made it",
        )
    return manifest

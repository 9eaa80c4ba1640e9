"""Writes training sets: one Parquet file, or a folder of parts, and the manifest beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from featurestore.errors import MalformedRequestError
from featurestore.offline.atomic import make_folder, write_atomically
from featurestore.training.manifest import encoded
from featurestore.training.training_set import TrainingSet

PART_ROWS = 1_000_000
SUFFIX = ".parquet"
MANIFEST_SUFFIX = ".manifest.json"
FOLDER_MANIFEST = "_manifest.json"


def manifest_path(out: Path) -> Path:
    """Where the manifest of a training set at `out` lies; its name begins so that readers of the folder skip it."""
    return out.with_name(out.name + MANIFEST_SUFFIX) if out.suffix == SUFFIX else out / FOLDER_MANIFEST


def data_path(manifest: Path) -> Path:
    """Where the training set of a manifest lies, a file or a folder: the way back of `manifest_path`.

    Raises MalformedRequestError for a name that `manifest_path` does not give.
    """
    if manifest.name == FOLDER_MANIFEST:
        return manifest.parent
    if not manifest.name.endswith(SUFFIX + MANIFEST_SUFFIX):
        raise MalformedRequestError(
            f"manifest {manifest} is not named after its training set",
            hint=f"let it lie where it was written: NAME{SUFFIX}{MANIFEST_SUFFIX}, or {FOLDER_MANIFEST} in the folder",
        )
    return manifest.with_name(manifest.name.removesuffix(MANIFEST_SUFFIX))


def write_training_set(made: TrainingSet, out: Path) -> list[Path]:
    """Write it; the files. out: a name that ends in .parquet for one file, any other for a folder of parts.

    Nothing half written is ever seen under that name. Raises MalformedRequestError when a folder is there and holds
    something else than a training set.
    """
    make_folder(out.resolve().parent)
    if out.suffix == SUFFIX:
        write_atomically(out, lambda file: _write(made, file, 0, made.frame.height))
        write_atomically(manifest_path(out), lambda file: file.write(encoded(made.manifest)))
        return [out]
    if out.exists() and any(out.iterdir()) and not manifest_path(out).exists():
        raise MalformedRequestError(
            f"{out} is there and holds no training set", hint="choose another folder, or a name that ends in .parquet"
        )
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    names = []
    for number, begin in enumerate(range(0, max(made.frame.height, 1), PART_ROWS)):
        names.append(f"part-{number:05d}{SUFFIX}")
        with (unfinished / names[-1]).open("wb") as file:
            _write(made, file, begin, PART_ROWS)
    (unfinished / FOLDER_MANIFEST).write_bytes(encoded(made.manifest))
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
    return [out / name for name in names]


def _write(made: TrainingSet, file: BinaryIO, begin: int, rows: int) -> None:
    made.frame.slice(begin, rows).write_parquet(file, compression="zstd")

"""Whether the files of a dataset are what was written: every page of every file against its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import StoreFormatError
from featurestore.offline.listing import list_files
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.tables import check_pages, read_metadata


def damaged_files(root: Path, folder: Path, *, whole: bool) -> Iterator[StoreFormatError]:
    """The error of each damaged file below a dataset's folder. whole: read all of it, else footers alone.

    Files that a compaction replaces meanwhile are left out: it has read them.
    """
    for path in list_files(root, folder):
        try:
            if "events" in path.relative_to(root).parts[:1]:
                read_segment_footer(path)
            check_pages(path) if whole else read_metadata(path)
        except FileNotFoundError:
            continue
        except StoreFormatError as error:
            yield error

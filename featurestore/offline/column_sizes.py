"""How many bytes each column takes in Parquet files, from their footers: no data is read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from featurestore.offline.listing import list_files, with_fresh_files


def column_bytes(root: Path, folder: Path) -> dict[str, int]:
    """Compressed bytes by column, over all Parquet files of a dataset, or of several, below `folder`.

    root: of the offline store. Footers and what columns share are in none of them.
    """
    return with_fresh_files(lambda: _sum(root, folder))


def _sum(root: Path, folder: Path) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for path in list_files(root, folder) if folder.is_dir() else ():
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group)
            for position in range(rows.num_columns):
                column = rows.column(position)
                sizes[column.path_in_schema] += column.total_compressed_size
    return dict(sizes)

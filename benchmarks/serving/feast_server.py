"""Feast's own server with ten features of the same cards: run with the Python that has Feast.

`python feast_server.py FOLDER KEYS_FILE PORT` fills a sqlite online store and becomes `feast serve`, one worker that is
never restarted.
"""

import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

FEATURES = {
    "count_10m": Int64,
    "count_1h": Int64,
    "count_24h": Int64,
    "amount_sum_10m": Float64,
    "amount_sum_1h": Float64,
    "amount_sum_24h": Float64,
    "amount_mean_1h": Float64,
    "amount_max_24h": Float64,
    "count_tumbling_1m": Int64,
    "merchant_id_last": String,
}
CONFIG = """
project: benchmark
provider: local
registry: {folder}/registry.db
online_store: {{type: sqlite, path: {folder}/online.db}}
entity_key_serialization_version: 3
"""


def fill(folder: Path, cards: list[str]) -> None:
    """Apply a feature view and write a row for each card."""
    store = FeatureStore(repo_path=str(folder))
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
    source = FileSource(name="none", path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    fields = [Field(name=name, dtype=dtype) for name, dtype in FEATURES.items()]
    view = FeatureView(name="card_profile", entities=[card], ttl=timedelta(days=7), schema=fields, source=source)
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"card_id": cards, "event_timestamp": datetime.now(timezone.utc)})
    for name, dtype in FEATURES.items():
        if dtype is String:
            rows[name] = [f"m{number:03d}" for number in rng.integers(0, 1_000, len(rows))]
        else:
            rows[name] = rng.integers(0, 1_000, len(rows)) if dtype is Int64 else rng.random(len(rows))
    rows.head(1).to_parquet(folder / "none.parquet")
    store.apply([card, view])
    store.write_to_online_store("card_profile", rows)


def main() -> None:
    """Fill the store, then serve it."""
    folder, port = Path(sys.argv[1]), sys.argv[3]
    (folder / "feature_store.yaml").write_text(CONFIG.format(folder=folder))
    fill(folder, sorted(set(Path(sys.argv[2]).read_text().split())))
    os.chdir(folder)
    options = ["--workers", "1", "--max-requests", "0", "--max-requests-jitter", "0", "--no-access-log"]
    os.execv(
        str(Path(sys.executable).with_name("feast")),
        ["feast", "serve", "--port", port, "--keep-alive-timeout", "60", *options],
    )


if __name__ == "__main__":
    main()

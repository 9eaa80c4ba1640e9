"""Feast's point-in-time join of the newest amount: `python feast_join.py FOLDER`, with the Python that has Feast."""

import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

CONFIG = """
project: benchmark
provider: local
registry: {folder}/feast.db
online_store: {{type: sqlite, path: {folder}/feast-online.db}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


def main() -> None:
    """Join, and write the result beside the others."""
    folder = Path(sys.argv[1])
    (folder / "feature_store.yaml").write_text(CONFIG.format(folder=folder))
    store = FeatureStore(repo_path=str(folder))
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.STRING)
    source = FileSource(name="events", path=str(folder / "events.parquet"), timestamp_field="event_time")
    fields = [Field(name="amount", dtype=Float64)]
    store.apply([card, FeatureView(name="newest", entities=[card], ttl=timedelta(0), schema=fields, source=source)])
    spine = pd.read_parquet(folder / "spine.parquet")
    # Feast takes the event of the instant itself, too; all instants are whole milliseconds.
    spine["event_timestamp"] -= pd.Timedelta(1, "us")
    joined = store.get_historical_features(spine, ["newest:amount"]).to_df()
    joined["event_timestamp"] += pd.Timedelta(1, "us")
    joined.rename(columns={"amount": "amount_last"}).to_parquet(folder / "feast-asof.parquet")


if __name__ == "__main__":
    main()

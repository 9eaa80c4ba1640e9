"""Reads through Feast's own SDK: run with the Python of an environment that has it, it knows nothing of our package.

`python feast_reader.py URL FOLDER`: stdin has a JSON list of the arguments of `get_online_features`, stdout one JSON
result each: {"values": …} or {"error": class, "message": …}. FOLDER is for what the SDK wants to write.
"""

import json
import sys
from pathlib import Path

from feast import FeatureStore, RepoConfig


def main() -> None:
    """Ask for each of the requests."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    store = FeatureStore(
        config=RepoConfig(
            project="fraud",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "remote", "path": url},
            entity_key_serialization_version=3,
        )
    )
    results = []
    for request in json.load(sys.stdin):
        try:
            results.append({"values": store.get_online_features(**request).to_dict(include_event_timestamps=False)})
        except Exception as error:  # noqa: BLE001 - what it raises is what the test looks at
            results.append({"error": type(error).__name__, "message": str(error)})
    json.dump(results, sys.stdout, default=repr)


if __name__ == "__main__":
    main()

"""Run by Feast's own Python: reads through its SDK, each answer or error as a line of JSON. Takes URL, requests."""

import json
import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from feast import FeatureStore  # noqa: E402

url, requests = sys.argv[1], json.loads(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "feature_store.yaml").write_text(
        f"project: theirs\nprovider: local\nregistry: {folder}/registry.db\n"
        f"online_store:\n  type: remote\n  path: {url}\n"
        "offline_store:\n  type: file\nauth:\n  type: no_auth\n"
    )
    store = FeatureStore(repo_path=folder)
    for request in requests:
        try:
            said = {"values": store.get_online_features(**request).to_dict()}
        except Exception as error:  # noqa: BLE001 - which one it is, is what the test asks
            said = {"error": type(error).__name__, "message": str(error)}
        sys.stdout.write(json.dumps(said) + "\n")

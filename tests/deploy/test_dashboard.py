"""The Grafana dashboard as data: it can be loaded, its panels do not overlap, and every metric in it exists."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from featurestore.observability import TABLE

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/featurestore.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
COLUMNS = 24


def expressions() -> list[str]:
    """Every query of the dashboard and of the alert rules."""
    shown = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return shown + [rule["expr"] for rule in ALERTS]


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    assert max(Counter(panel["id"] for panel in DASHBOARD["panels"]).values()) == 1
    taken: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        taken.update(cells)
    assert max(taken.values()) == 1


def test_every_panel_says_what_it_shows_and_asks_the_provisioned_source():
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] in uids


def test_the_dashboard_lies_where_grafana_looks():
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())
    grafana = compose["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"] if volume.startswith("."))
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/featurestore.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/dashboards"] == folder
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/featurestore.json"


def test_every_metric_that_is_asked_for_exists_with_its_labels():
    for expression in expressions():
        for name in re.findall(r"featurestore_(\w+)", expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in TABLE or plain in TABLE, name
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            known = {label for declared in TABLE.values() for label in declared.labels} | {"le"}
            assert set(labels.replace(" ", "").split(",")) <= known, expression


def test_every_alert_says_what_to_do():
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}

"""`list`, `show`, `search`, `history` and `unused` on the example, as people and programs see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from featurestore.cli.output import make_table, plain_table
from featurestore.cli.table_layout import lay_out
from featurestore.compile.view import CompiledView, compile_view
from featurestore.examples import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.online.usage import freed_shares
from featurestore.registry import Registry
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import MODULE, answer, command, run_until_end, send
from tests.cli.test_tables import COLUMNS, on_a_terminal

SERVICE = """from featurestore import FeatureService
from pipelines.transactions import merchant_activity

fraud = FeatureService("fraud", features=[merchant_activity[["count_1h"]]], owner="risk@example.com")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with events, a service, and one read of one feature."""
    folder = tmp_path_factory.mktemp("list") / "project"
    write_project(folder)
    (folder / "pipelines" / "services.py").write_text(SERVICE)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=3_000)))
        run_until_end(folder)
        assert command(folder, "apply", "pipelines/services.py").returncode == 0
        assert command(folder, "get", "card_activity:count_1h", "-e", "card_id=card_000001").returncode == 0
        yield folder


def names(found: list[dict[str, Any]]) -> set[str]:
    return {one["name"] for one in found}


def test_list_by_kind_owner_and_tag(project: Path) -> None:
    every = answer(project, "list")
    assert names(every) == {"card", "merchant", "transactions", "card_activity", "merchant_activity", "fraud"}
    assert names(answer(project, "list", "entities")) == {"card", "merchant"}
    assert names(answer(project, "list", "sources")) == {"transactions"}
    assert names(answer(project, "list", "services")) == {"fraud"}
    assert names(answer(project, "list", "views", "--tag", "tier=critical")) == {"card_activity"}
    assert answer(project, "list", "views", "--owner", "nobody@example.com") == []
    features = answer(project, "list", "features", "--owner", "risk@example.com")
    by_name = {one["feature"]: one for one in features}
    assert by_name["card_activity:amount_eur_sum_1h"]["computed"] == "sum of amount_eur, sliding 1h"
    assert "nothing deployed is like that" in command(project, "list", "features", "--deprecated").stdout


@pytest.mark.parametrize(
    "wrong", [("list", "topics"), ("list", "features", "--pii", "some"), ("list", "sources", "--deprecated")]
)
def test_a_wrong_question_is_wrong_usage(wrong: tuple[str, ...], project: Path) -> None:
    assert command(project, *wrong).returncode == 2


def test_show_tells_all_of_a_view(project: Path) -> None:
    shown = command(project, "show", "card_activity").stdout
    for told in (
        "How often, how much and where a card was used.",
        "tier=critical",
        'Eq(col("status"), lit("approved"))',
        "transactions.fx_rate",
        "version 1",
        "7d",
        "mean of amount_eur, sliding 1d",
        "shell",
    ):
        assert told in shown
    sheet = answer(project, "show", "card_activity")
    assert sheet["definition"]["spec"]["name"] == "card_activity"
    assert [one["role"] for one in sheet["versions"]] == ["served"]
    assert sheet["reads"]["consumers"][0]["name"] == "shell"
    assert sheet["feature"] is None


def test_show_tells_all_of_a_feature(project: Path) -> None:
    sheet = answer(project, "show", "merchant_activity:count_1h")["feature"]
    assert (sheet["services"], sheet["reads"]["last_read_at"]) == (["fraud"], None)
    roles = {one["column"]: one["role"] for one in sheet["columns"]}
    assert roles == {"transactions.merchant_id": "key", "transactions.status": "where", "transactions.ts": "time"}
    shown = command(project, "show", "card_activity:count_1h").stdout
    assert "count, sliding 1h" in shown
    assert "not read" not in shown
    assert "not read since" in command(project, "show", "merchant_activity:count_1h").stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("transactions", ("topic", "event time", "fx_rate", "views", "merchant_activity")),
        ("card", ("card_id String", "card_activity")),
        ("fraud", ("merchant_activity@1: count_1h",)),
    ],
)
def test_show_tells_of_the_other_kinds(name: str, told: tuple[str, ...], project: Path) -> None:
    shown = command(project, "show", name).stdout
    assert all(text in shown for text in told), shown


def test_what_is_not_there_is_told_with_the_nearest(project: Path) -> None:
    done = command(project, "show", "card_activty")
    assert done.returncode == 1
    assert "card_activity" in done.stderr
    done = command(project, "show", "card_activity:count_1")
    assert done.returncode == 1
    assert "count_1h" in done.stderr
    assert "did you mean amount" in command(project, "search", "amuont").stdout


def test_search_finds_by_all_words(project: Path) -> None:
    found = answer(project, "search", "amount", "1h")["found"]
    assert {one["name"] for one in found} >= {"card_activity:amount_eur_sum_1h", "merchant_activity:amount_eur_sum_1h"}
    assert all("1h" in one["name"] for one in found)
    short = answer(project, "search", "count", "--limit", "1")
    assert (len(short["found"]), short["total"] > 3) == (1, True)


def test_history_tells_who_did_what(project: Path) -> None:
    done = answer(project, "history")
    assert {(one["action"], one["kind"], one["name"]) for one in done} >= {
        ("add", "view", "card_activity"),
        ("add", "feature_service", "fraud"),
    }
    assert names(answer(project, "history", "card_activity")) == {"card_activity"}
    assert "nothing was done to anything called 'nobody'" in command(project, "history", "nobody").stdout


def test_a_new_feature_that_is_there_already_is_pointed_out(project: Path) -> None:
    module = project / "pipelines" / "twice.py"
    text = (project / MODULE).read_text().replace('"card_activity"', '"card_again"')
    module.write_text(text.replace('"merchant_activity"', '"merchant_again"').replace('"24h"', '"12h"'))
    done = command(project, "plan", "pipelines/twice.py")
    assert done.returncode == 0, done.stderr
    assert "card_again:count_1h computes what card_activity:count_1h does already" in done.stderr
    assert "count_12h" not in done.stderr
    assert "already" not in command(project, "plan", MODULE).stderr


def compiled(project: Path, name: str) -> CompiledView:
    registry = Registry.open(project / "data" / "registry" / "registry.db", create=False)
    try:
        view = registry.view(name)
        source = registry.source(view.spec.source)
    finally:
        registry.close()
    return compile_view(view.spec, source, view_id=view.view_id, version=view.version)


def test_unused_features_with_what_they_take(project: Path) -> None:
    report = answer(project, "unused", "--since", "0s")
    views = {one["name"]: one for one in report["views"]}
    assert report["recorded_since"] is not None
    cards, merchants = views["card_activity"], views["merchant_activity"]
    assert (cards["whole"], merchants["whole"]) == (True, False)
    assert "count_1h" not in {one["name"] for one in merchants["features"]}, "a service holds it"
    last = {one["name"]: one["last_read_at"] for one in cards["features"]}
    assert [name for name, at in last.items() if at] == ["count_1h"]
    disk = {one["name"]: one for one in answer(project, "status", "--disk")["disk"]["views"]}
    assert cards["online_bytes"] == disk["card_activity"]["online_bytes"]
    assert cards["offline_bytes"] == disk["card_activity"]["offline_bytes"]
    # Offline: the bytes of its column, from the footers read here.
    files = (project / "data" / "offline" / "features" / "merchant_activity").rglob("*.parquet")
    column = 0
    for file in files:
        footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            chunks = [footer.row_group(group).column(i) for i in range(footer.row_group(group).num_columns)]
            column += sum(one.total_compressed_size for one in chunks if one.path_in_schema == "amount_eur_sum_1h")
    sizes = {one["name"]: one for one in merchants["features"]}
    assert sizes["amount_eur_sum_1h"]["offline_bytes"] == column > 0
    # Online: count stays for count_1h, the sum goes with both of its windows.
    assert sizes["count"]["online_bytes"] == 0
    assert 0 < sum(one["online_bytes"] for one in merchants["features"]) < disk["merchant_activity"]["online_bytes"]
    shown = command(project, "unused", "--since", "0s").stdout
    assert f"all {len(cards['features'])}" in shown
    assert "Reads are recorded since" in shown


def test_a_slot_goes_when_its_last_feature_does(project: Path) -> None:
    view = compiled(project, "merchant_activity")
    sums = [name for name in view.features if "sum" in name]
    assert len(sums) == 2
    assert freed_shares(view, sums[:1]) == {sums[0]: 0.0}
    both = freed_shares(view, sums)
    assert both[sums[0]] == both[sums[1]] > 0
    every = freed_shares(view, list(view.features))
    assert 0 < sum(every.values()) < 1, "start and count of a tile stay"


def test_a_time_before_recording_is_not_claimed(project: Path) -> None:
    assert answer(project, "unused", "--since", "30d")["views"] == []
    shown = command(project, "unused").stdout
    assert "is unknown" in shown
    done = command(project, "unused", "--since", "soon")
    assert done.returncode == 1
    assert "duration" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "features"),
        ("show", "card_activity"),
        ("show", "card_activity:count_1h"),
        ("show", "transactions"),
        ("search", "amount"),
        ("history",),
        ("unused", "--since", "0s"),
    ],
)
def test_everything_fits_a_terminal_of_80_columns(arguments: tuple[str, ...], project: Path) -> None:
    lines = on_a_terminal(project, *arguments).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("width", [30, 80, 200])
def test_many_rows_are_drawn_as_few_are(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["name", "how many", "what"]
    rows = [[f"feature_{n}", f"{n:,}", "ein längerer Satz über 金額 " * (n % 3)] for n in range(0, 3000, 250)]
    numeric = [False, True, False]
    for placed in lay_out(columns, rows, 1, width):
        Console(markup=False, highlight=False, width=width).print(make_table(columns, rows, numeric, placed))
        drawn = capsys.readouterr().out
        assert [line.rstrip() for line in plain_table(columns, rows, numeric, placed)] == [
            line.rstrip() for line in drawn.splitlines()
        ]

"""`featurestore dead-letters` and `featurestore late`, from the first look to events that are accepted after a fix."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.cli.init import write_project
from featurestore.offline import read_dead_letters, read_events, read_late
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import MessageSender
from tests.cli.support import MODULE, answer, command, run_until_end

pytestmark = pytest.mark.slow  # a dozen commands each

PARTITIONS = 4
MINUTE_MS = 60_000
NOW_MS = time.time_ns() // 1_000_000 - 120 * MINUTE_MS


def payment(number: int, minute: float, **changes: object) -> bytes:
    event: dict[str, object] = {
        "transaction_id": f"t{number}",
        "card_id": f"c{number % 3}",
        "merchant_id": "m1",
        "amount": 1.0,
        "currency": "EUR",
        "status": "approved",
        "ts": NOW_MS + int(minute * MINUTE_MS),
    }
    return json.dumps({k: v for k, v in {**event, **changes}.items() if v is not None}).encode()


@dataclass
class Project:
    folder: Path
    broker: EmbeddedBroker

    def send(self, values: list[tuple[int, bytes | None]]) -> None:
        assert self.broker.address is not None
        sender = MessageSender(self.broker.address.bootstrap_servers, "transactions", {})
        for partition, value in values:
            sender.send(value, b"\x00key", partition)
        sender.flush()

    def source(self) -> Any:
        (source,) = answer(self.folder, "status")["sources"]
        assert source["read"] == source["accepted"] + source["late"] + sum(source["dead_letters"].values())
        return source

    def accept_missing_currency(self) -> None:
        path = self.folder / "schemas" / "transaction.avsc"
        text = path.read_text()
        assert '"name": "currency", "type": "string"' in text
        path.write_text(
            text.replace(
                '"name": "currency", "type": "string"', '"name": "currency", "type": "string", "default": "EUR"'
            )
        )
        assert command(self.folder, "apply", MODULE).returncode == 0

    def allow(self, lateness: str) -> None:
        path = self.folder / MODULE
        path.write_text(path.read_text().replace('allowed_lateness="10m"', f'allowed_lateness="{lateness}"'))
        assert command(self.folder, "apply", MODULE).returncode == 0


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Sixty minutes of payments in four partitions; five dead letters and three too-late events among them."""
    folder = tmp_path / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        made = Project(folder, broker)
        made.send([(n % PARTITIONS, payment(n, n / 2)) for n in range(120)])
        made.send([(0, payment(200, 58, currency=None)), (1, payment(201, 58, currency=None))])
        made.send([(2, payment(202, 10, currency=None)), (3, b"\xff not json"), (3, None)])
        made.send([(1, payment(300, 40)), (1, payment(301, 30)), (2, payment(302, 5))])
        run_until_end(folder)
        yield made


def test_dead_letters_are_listed_shown_mended_and_replayed_once(project: Project):
    folder = project.folder
    assert [(row["reason"], row["count"], row["replayed"]) for row in answer(folder, "dead-letters", "ls")] == [
        ("malformed", 1, 0),
        ("missing_field", 3, 0),
        ("tombstone", 1, 0),
    ]
    shown = answer(folder, "dead-letters", "show", "--reason", "missing_field", "--limit", "2")
    assert (shown["found"], len(shown["messages"])) == (3, 2)
    assert json.loads(shown["messages"][0]["value"])["transaction_id"] in ("t200", "t201", "t202")
    assert "currency" in shown["messages"][0]["error"]
    (one,) = answer(folder, "dead-letters", "show", "--reason", "malformed")["messages"]
    assert one["value"] == {"hex": b"\xff not json".hex()}
    place = ("--partition", str(one["_partition"]), "--offset", str(one["_offset"]))
    assert answer(folder, "dead-letters", "show", *place)["messages"] == [one]
    told = command(folder, "dead-letters", "show", *place).stdout
    assert "0xff206e6f74206a736f6e" in told
    assert "1 of 1 shown" in told

    # Before the fix nothing would be accepted: nothing is sent, whatever --yes says.
    before = command(folder, "dead-letters", "replay", "--yes")
    assert before.returncode == 0, before.stderr
    assert "dead letters again (missing_field)" in before.stdout
    assert "nothing to send" in before.stdout
    project.accept_missing_currency()
    planned = answer(folder, "dead-letters", "replay", "--dry-run")
    assert planned["sent"] == 0
    assert planned["plan"]["verdicts"] == {"accepted": 2, "malformed": 1, "tombstone": 1, "too late": 1}
    assert planned["plan"]["lateness_needed"] is not None
    assert answer(folder, "status")["sources"][0]["lag"] == 0, "a dry run sends nothing"
    done = command(folder, "dead-letters", "replay", "--reason", "missing_field", "--yes")
    assert done.returncode == 0, done.stderr
    assert "2 messages sent to topic 'transactions'" in done.stdout
    again = answer(folder, "dead-letters", "replay", "--yes")
    assert (again["sent"], again["plan"]["already_replayed"]) == (0, 2)

    run_until_end(folder)
    assert project.source()["read"] == 128 + 2
    offline = folder / "data" / "offline"
    back = read_events(offline, "transactions").filter(pl.col("transaction_id").is_in(["t200", "t201"]))
    assert sorted(back.select("transaction_id", "_partition").rows()) == [("t200", 0), ("t201", 1)]
    assert read_dead_letters(offline, "transactions").height == 5, "a dead letter stays where it was"
    (row,) = (row for row in answer(folder, "dead-letters", "ls") if row["reason"] == "missing_field")
    assert (row["count"], row["replayed"]) == (3, 2)


def test_late_events_are_replayed_as_far_as_the_lateness_reaches(project: Project):
    folder = project.folder
    (row,) = answer(folder, "late", "ls")
    assert (row["source"], row["count"], row["replayed"], row["allowed_lateness"]) == ("transactions", 3, 0, "10m")
    refused = answer(folder, "late", "replay", "--yes")
    assert (refused["sent"], refused["plan"]["verdicts"]) == (0, {"too late": 3})
    project.allow("25m")
    told = command(folder, "late", "replay", "--dry-run").stdout
    assert "1 would be accepted" in told
    assert "2 would be too late" in told
    assert "allowed_lateness is 25m" in told
    assert "correction line of card_activity" in told
    needed = answer(folder, "late", "replay", "--dry-run")["plan"]["lateness_needed"]
    assert answer(folder, "late", "replay", "--yes")["sent"] == 1
    run_until_end(folder)
    assert project.source()["late"] == 3
    path = folder / MODULE
    path.write_text(path.read_text().replace('allowed_lateness="25m"', f'allowed_lateness="{needed}"'))
    assert command(folder, "apply", MODULE).returncode == 0
    assert answer(folder, "late", "replay", "--yes")["sent"] == 2, "the lateness that it named is enough"
    run_until_end(folder)
    assert project.source()["read"] == 128 + 3
    events = read_events(folder / "data" / "offline", "transactions")
    assert set(read_late(folder / "data" / "offline", "transactions")["transaction_id"]) <= set(
        events["transaction_id"]
    )


def test_late_events_that_the_topic_has_no_more_are_told(project: Project):
    project.allow("2h")
    folder = project.folder
    project.broker.__exit__(None, None, None)
    with EmbeddedBroker(folder / "data") as broker:  # another generation
        project.broker = broker
        project.send([(0, payment(400, 61))])
        told = command(folder, "late", "replay", "--yes")
        assert told.returncode == 0, told.stderr
        assert "3 can't be replayed: the topic does not have them any more" in told.stdout


def test_wrong_input_is_told(project: Project, tmp_path: Path):
    folder = project.folder
    for group in ("dead-letters", "late"):
        for name in ("ls", "show", "replay"):
            done = command(folder, group, name, "--source", "transaction")
            assert done.returncode == 1
            assert "there is no source 'transaction'" in done.stderr
            assert "transactions" in done.stderr
            done = command(tmp_path, group, name)
            assert (done.returncode, "there is no data in" in done.stderr) == (1, True)
        assert command(folder, group, "show", "--partition", "-1").returncode == 2
        assert answer(folder, group, "show", "--offset", "999999")["messages"] == []
    project.accept_missing_currency()
    unasked = command(folder, "dead-letters", "replay")
    assert unasked.returncode == 1
    assert "--yes" in unasked.stderr
    silent = command(folder, "dead-letters", "replay", "--yes", "--bootstrap-servers", "127.0.0.1:1")
    assert silent.returncode == 1
    assert "127.0.0.1:1" in silent.stderr

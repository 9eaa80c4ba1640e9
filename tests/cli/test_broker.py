"""`featurestore broker` as a process: says where it is, refuses a second one, leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]


def start(project: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "featurestore", "broker", "--json"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, project, {**os.environ, "PYTHONPATH": str(ROOT)}, 60)


def read_document(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        text += line
    document: dict[str, object] = json.loads(text)
    return document


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(tmp_path)
    yield process
    process.kill()
    process.communicate()


def test_the_broker_tells_its_address_and_leaves_nothing_behind(running: subprocess.Popen[str], tmp_path: Path) -> None:
    address = read_document(running)
    on_disk = json.loads((tmp_path / "data" / "broker.json").read_text())
    assert on_disk == address
    assert address["pid"] == running.pid

    second = start(tmp_path)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 1
    assert str(running.pid) in err
    assert "Hint:" in err

    (tmp_path / "events.jsonl").write_text('{"card_id": "c1", "amount": 1.5}\n{"card_id": "c2", "amount": 2}\n')
    produced = command(tmp_path, "produce", "payments", "events.jsonl", "--key", "card_id", "--json")
    assert produced.returncode == 0, produced.stderr
    assert json.loads(produced.stdout)["messages"] == 2

    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 0
    assert not (tmp_path / "data" / "broker.json").exists()


def test_two_signals_at_once_end_it_too(running: subprocess.Popen[str]) -> None:
    read_document(running)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 0


def test_produce_without_a_broker_says_how_to_start_one(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("{}\n")
    produced = command(tmp_path, "produce", "payments", "events.jsonl")
    assert produced.returncode == 1
    assert produced.stdout == ""
    assert "featurestore broker" in produced.stderr

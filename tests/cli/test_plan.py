"""`plan` and `apply` on the example that `init` writes: the whole way from an empty folder to a registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featurestore.cli import main
from featurestore.cli.init import write_project

MODULE = "pipelines/transactions.py"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    assert not caught.value.code
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(arguments)
    return capsys.readouterr().out


def test_plan_writes_nothing_and_apply_makes_it_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = answer(capsys, "plan", MODULE)
    assert planned["has_changes"] is True
    assert not (project / "data").exists()

    assert answer(capsys, "apply", MODULE) == planned
    assert answer(capsys, "plan", MODULE)["has_changes"] is False
    assert answer(capsys, "apply", MODULE)["has_changes"] is False


def test_plan_names_what_it_would_add(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", MODULE])
    text = capsys.readouterr().out
    for name in ("card_activity", "merchant_activity", "transactions"):
        assert name in text


def test_a_changed_window_is_a_new_version_and_a_changed_owner_is_not(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "apply", MODULE)
    pipeline = project / "pipelines" / "transactions.py"
    pipeline.write_text(pipeline.read_text().replace("risk@example.com", "fraud@example.com"))
    assert "version" not in shown(capsys, "plan", MODULE).replace("version 1", "")
    pipeline.write_text(pipeline.read_text().replace('"24h"', '"12h"'))
    assert "version 2" in shown(capsys, "plan", MODULE)


def test_a_module_that_is_not_there_is_told(project: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "pipelines.nothing"])
    assert str(caught.value.code).startswith("Error: ")
    assert "nothing" in str(caught.value.code)

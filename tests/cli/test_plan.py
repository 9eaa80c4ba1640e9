"""`plan` and `apply` on the example that `init` writes: the whole way from an empty folder to a registry."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from featurestore.cli import main
from featurestore.examples import BY_NAME, write_project
from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
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


def in_a_process(*arguments: str) -> str:
    """Output of a command that imports the modules anew, as a user's does."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def new_versions(document: str) -> dict[str, int]:
    """View name to the version that a plan would give it."""
    changes = json.loads(document)["changes"]
    return {change["name"]: change["new_version"] for change in changes if change["kind"] == "view"}


def test_plan_writes_nothing_and_apply_makes_it_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = answer(capsys, "plan", MODULE)
    assert planned["has_changes"] is True
    assert not (project / "data").exists()

    assert answer(capsys, "apply", MODULE) == planned
    assert answer(capsys, "plan", MODULE)["has_changes"] is False
    assert answer(capsys, "apply", MODULE)["has_changes"] is False


@pytest.mark.parametrize("template", BY_NAME)
def test_what_init_writes_can_be_planned_and_applied(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = BY_NAME[template]
    monkeypatch.chdir(tmp_path)
    in_a_process("init", "--template", template)
    planned = in_a_process("plan", example.dotted_module, "--json")
    assert new_versions(planned)[example.shown_view] == 1
    assert in_a_process("apply", example.module, "--json") == planned
    assert json.loads(in_a_process("plan", example.module, "--json"))["has_changes"] is False


def test_plan_names_what_it_would_add(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", MODULE])
    text = capsys.readouterr().out
    for name in ("card_activity", "merchant_activity", "transactions"):
        assert name in text


def test_a_changed_window_is_a_new_version_and_a_changed_owner_is_not(project: Path) -> None:
    in_a_process("apply", MODULE)
    pipeline = project / "pipelines" / "transactions.py"
    pipeline.write_text(pipeline.read_text().replace("risk@example.com", "fraud@example.com"))
    assert new_versions(in_a_process("plan", MODULE, "--json")) == {
        "card_activity": 1,
        "merchant_activity": 1,
    }
    pipeline.write_text(pipeline.read_text().replace('"24h"', '"12h"'))
    assert new_versions(in_a_process("plan", MODULE, "--json")) == {
        "card_activity": 2,
        "merchant_activity": 1,
    }


def test_a_module_that_is_not_there_is_told(project: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "pipelines.nothing"])
    assert str(caught.value.code).startswith("Error: ")
    assert "nothing" in str(caught.value.code)


def change(project: Path, old: str, new: str) -> None:
    pipeline = project / MODULE
    text = pipeline.read_text()
    assert old in text
    pipeline.write_text(text.replace(old, new))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A file that changed within a second, and not in size, would be taken from its cached byte code.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_command(arguments, Path.cwd(), environment, 60)


def test_exit_codes_tell_ci_what_a_plan_holds(project: Path) -> None:
    assert run("plan", MODULE, "--detailed-exitcode").returncode == 2
    assert run("plan", MODULE).returncode == 0
    assert run("apply", MODULE).returncode == 0
    assert run("plan", MODULE, "--detailed-exitcode").returncode == 0
    change(project, '"24h"', '"12h"')
    assert run("plan", MODULE, "--detailed-exitcode").returncode == 2
    change(project, '"card_id": pl.String', '"merchant_id": pl.String')
    done = run("plan", MODULE, "--detailed-exitcode")
    assert done.returncode == 3, done.stderr
    assert "breaking: the join keys of entity card change" in done.stdout


def test_what_breaks_is_applied_when_it_is_meant(project: Path) -> None:
    assert run("apply", MODULE).returncode == 0
    change(project, '"card_id": pl.String', '"merchant_id": pl.String')
    for command in ("apply", "run"):
        refused = run(command, MODULE, *(["--apply", "--until-end"] if command == "run" else []))
        assert refused.returncode == 1
        assert "the join keys of view card_activity change" in refused.stderr
        assert "--allow-breaking" in refused.stderr
    assert new_versions(in_a_process("plan", MODULE, "--json"))["card_activity"] == 2
    done = json.loads(in_a_process("apply", MODULE, "--allow-breaking", "--json"))
    assert done["breaking"]
    roles = [one["role"] for one in json.loads(in_a_process("versions", "card_activity", "--json"))["versions"]]
    assert roles == ["served", "shadow"]


def test_the_git_revision_is_recorded_and_says_when_files_differ(project: Path) -> None:
    assert json.loads(in_a_process("plan", MODULE, "--json"))["git_revision"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=project, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True)
    assert json.loads(in_a_process("plan", MODULE, "--json"))["git_revision"] == commit.stdout.strip()
    in_a_process("apply", MODULE)
    change(project, '"24h"', '"12h"')
    assert json.loads(in_a_process("plan", MODULE, "--json"))["git_revision"] == f"{commit.stdout.strip()}-dirty"
    in_a_process("apply", MODULE, "--revision", "v1.2")
    found = json.loads(in_a_process("versions", "card_activity", "--json"))["versions"]
    assert len(found[0]["git_revision"]) >= 40
    assert found[1]["git_revision"] == "v1.2"

"""The command line as a whole: exit codes, errors on stderr, the template, output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore.cli import app as cli_app
from featurestore.cli import main
from featurestore.cli.output import print_json, print_table
from featurestore.errors import ConfigError
from featurestore.examples import BY_NAME, DEFAULT, template_root

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> int:
    """Exit code of a command in this process."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    code = caught.value.code
    if isinstance(code, str):  # a text goes to stderr, with exit code 1
        print(code, file=sys.stderr)  # noqa: T201
        return 1
    return int(code or 0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_every_command_and_each_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--help") == 0
    listed = capsys.readouterr().out
    commands = [(command.name,) for command in cli_app.app.registered_commands]
    for group in cli_app.app.registered_groups:
        assert group.typer_instance is not None
        commands += [(group.name, command.name) for command in group.typer_instance.registered_commands]
    for path in commands:
        assert str(path[0]) in listed
        assert run(*map(str, path), "--help") == 0
        text = capsys.readouterr().out
        name = " ".join(map(str, path))
        assert "Example" in text, name
        assert f"featurestore {name}" in " ".join(text.split()), name


def test_init_writes_the_example_and_overwrites_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "fraud", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"] == list(BY_NAME[DEFAULT].files)
    written = project / "fraud" / "pipelines" / "transactions.py"
    assert written.read_bytes() == (template_root() / "pipelines" / "transactions.py").read_bytes()

    written.write_text("mine")
    (project / "fraud" / "featurestore.toml").unlink()
    assert run("init", "fraud") == 1
    assert "is there already" in capsys.readouterr().err
    assert written.read_text() == "mine"
    assert not (project / "fraud" / "featurestore.toml").exists()


def test_the_template_is_packed_from_the_example_itself() -> None:
    packed = (ROOT / "pyproject.toml").read_text()
    for name in {name for example in BY_NAME.values() for name in example.files}:
        assert (ROOT / name).is_file()
        assert f'"{name}" = "featurestore/examples/template/{name}"' in packed


def test_every_pipeline_and_schema_at_the_top_belongs_to_an_example() -> None:
    files = {name for example in BY_NAME.values() for name in example.files}
    for folder in ("pipelines", "schemas"):
        found = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()}
        assert found <= files


def test_init_lists_its_templates_and_refuses_others(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "--help") == 0
    listed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for example in BY_NAME.values():
        assert f"{example.name}:" in listed
    assert run("init", "new", "--template", "moon") == 2
    assert "moon" in capsys.readouterr().err
    assert not (project / "new").exists()


def test_a_second_template_joins_the_project_unless_a_shared_file_was_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", "both") == 0
    capsys.readouterr()
    assert run("init", "both", "--template", "clicks", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["pipelines/clicks.py", "schemas/click.json"]

    settings = project / "both" / "featurestore.toml"
    settings.write_text("# mine")
    assert run("init", "both", "--template", "sensors") == 1
    assert "featurestore.toml is there already" in capsys.readouterr().err
    assert settings.read_text() == "# mine"
    assert not (project / "both" / "pipelines" / "sensors.py").exists()


def test_wrong_usage_exits_with_2_and_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "--no-such-option") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--no-such-option" in captured.err


def test_an_error_of_ours_is_told_with_its_hint_and_no_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ConfigError("the moon is full", hint="wait")

    monkeypatch.setattr(cli_app, "app", fail)
    assert run() == 1
    assert capsys.readouterr().err == "Error: the moon is full\nHint: wait\n"


def test_a_missing_library_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'polars'", name="polars.datatypes")

    monkeypatch.setattr(cli_app, "app", fail)
    assert run() == 1
    assert "pip install 'featurestore[worker]'" in capsys.readouterr().err


def test_a_missing_module_of_the_user_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'mine'", name="mine")

    monkeypatch.setattr(cli_app, "app", fail)
    with pytest.raises(ModuleNotFoundError):
        main([])


@pytest.mark.parametrize("arguments", [("init", "taken/new"), ("broker", "--data-dir", "taken/data")], ids=" ".join)
def test_a_folder_that_can_not_be_made_is_told_without_a_stack(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    (project / "taken").write_text("a file, not a folder")
    assert run(*arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert "taken" in told
    assert "Not a directory" in told


def test_an_error_of_the_system_that_is_nobodys_choice_shows_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "one of ours")

    monkeypatch.setattr(cli_app, "app", fail)
    with pytest.raises(FileNotFoundError):
        main([])


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_app, "app", interrupt)
    assert run() == 130


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "featurestore", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_a_table_in_a_pipe_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table(["view", "rows"], [[long, 1234567], ["short", None]])
    out = capsys.readouterr().out
    assert long in out
    assert "1,234,567" in out
    assert "–" in out


def test_json_takes_paths_and_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": Path("a/b"), "n": 1})
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "n": 1}

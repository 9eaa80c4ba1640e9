"""The bootstrap script: which Python it takes, what it says without one, that exit codes come through."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(folder: Path, answer: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("echo 3 12", (3, 12)),
        ("echo 3 10", (3, 10)),
        ("echo 3 9", None),
        ("echo 3 13", None),
        ("echo 'command not found' >&2; exit 127", None),  # a pyenv shim that is not switched on
    ],
)
def test_only_a_python_that_fits_and_runs_is_taken(
    dev: ModuleType, tmp_path: Path, answer: str, version: tuple[int, int] | None
) -> None:
    assert dev.version_of(fake_python(tmp_path, answer)) == version


def test_a_missing_program_is_no_python(dev: ModuleType, tmp_path: Path) -> None:
    assert dev.version_of(str(tmp_path / "nothing")) is None


def test_this_interpreter_comes_first(dev: ModuleType) -> None:
    assert next(dev.candidates()) == sys.executable


def test_without_a_fitting_python_it_says_how_to_get_one_and_exits_with_2(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "version_of", lambda python: None)
    with pytest.raises(SystemExit) as caught:
        dev.find_python()
    assert caught.value.code == 2
    assert "pyenv install" in capsys.readouterr().err


def test_exit_codes_come_through(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dev.run([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    monkeypatch.setattr(dev, "set_up", lambda: None)
    codes = {"mypy": 3, "pytest": 7}
    ran: list[str] = []

    def run(command: list[str]) -> int:
        tool = command[command.index("-m") + 1]
        ran.append(tool)
        return codes.get(tool, 0)

    monkeypatch.setattr(dev, "run", run)
    assert dev.main(["test"]) == 3
    assert ran == ["compileall", "ruff", "ruff", "mypy"]
    codes["mypy"] = 0
    assert dev.main(["test", "-q"]) == 7


def test_an_unknown_command_exits_with_2(dev: ModuleType) -> None:
    assert dev.main(["dance"]) == 2
    assert dev.main([]) == 2

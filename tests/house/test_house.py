"""The house keeps its rules; each rule is shown to catch a bad sample."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import rules
from tests.house.rules import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE_FILES = rules.python_files("featurestore")
THIN_CLIENT_LACKS = ("polars", "numpy", "pyarrow", "rocksdict", "pydantic", "structlog", "starlette")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # an unpacked source distribution
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    assert rules.forbidden_arrows(rules.room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("compute", "import featurestore.online.reader"),
        ("shard", "from featurestore.offline.archive import SourceArchive"),
        ("client", "from featurestore import compile"),
        ("client", "def f():\n    from featurestore import Entity"),
        ("serving", "import featurestore.worker.run as run"),
        ("cli", "from featurestore.testing.clock import Clock"),
        ("a_new_room", "import json"),
    ],
)
def test_a_forbidden_arrow_is_found(room: str, source: str) -> None:
    assert len(rules.forbidden_arrows(room, source)) == 1


def test_an_allowed_arrow_is_not() -> None:
    assert rules.forbidden_arrows("serving", "from featurestore.online import reader\nimport featurestore.errors") == []
    assert rules.forbidden_arrows("cli", "from featurestore import Entity") == []


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    assert rules.strayed_libraries(rules.room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("shard", "import rocksdict"),
        ("worker", "from confluent_kafka import Consumer"),
        ("compute", "from pyarrow import parquet"),
        ("serving", "import pyarrow.parquet as pq"),
        ("cli", "def f():\n    import httpx"),
    ],
)
def test_a_strayed_library_is_found(room: str, source: str) -> None:
    assert len(rules.strayed_libraries(room, source)) == 1


def test_a_library_at_home_is_not() -> None:
    assert rules.strayed_libraries("online", "import rocksdict, pyarrow") == []


@pytest.mark.parametrize("path", [*PACKAGE_FILES, *rules.python_files("pipelines")], ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert rules.missing_docstrings(path.read_text()) == []


def test_a_missing_docstring_is_found() -> None:
    source = '"""M."""\ndef f(): ...\nclass C:\n    """C."""\n    def m(self): ...\n    def _p(self): ...\n'
    assert rules.missing_docstrings(source) == ["2: f", "5: C.m"]
    assert rules.missing_docstrings("x = 1") == ["1: module"]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_a_log_line_is_an_event_with_fields(path: Path) -> None:
    assert rules.interpolated_events(path.read_text()) == []


def test_an_interpolated_log_line_is_found() -> None:
    assert len(rules.interpolated_events('log.info(f"shard {n} done")\nlog.info("Shard done", n=1)')) == 2
    assert rules.interpolated_events('log.info("shard_done", n=1)') == []


def test_files_are_short_enough_to_read() -> None:
    files = rules.python_files(*rules.MOST_LINES)
    long = {name_of(path) for path in files if rules.too_long(name_of(path), path.read_text())}
    assert long - set(rules.LONG_FILES) == set()
    assert set(rules.LONG_FILES) <= long, "an exception that is no longer needed"


def test_a_long_file_is_found() -> None:
    assert rules.too_long("featurestore/x.py", "\n" * 401)
    assert not rules.too_long("featurestore/x.py", "\n" * 400)


def test_tracked_files_name_no_machine_and_no_package_index() -> None:
    complaints = {}
    for path in tracked_files():
        try:
            found = rules.forbidden_text(path.read_text())
        except UnicodeDecodeError:
            continue
        if found:
            complaints[name_of(path)] = found
    assert complaints == {}


@pytest.mark.parametrize(
    "text",
    [
        "path = '/ro" + "ot/project'",
        "cd /home/" + "someone/x",
        "open('/wo" + "rk/main/a')",
        "--index-url https://py" + "pi.org/simple",
        "https://files.python" + "hosted.org/packages/x.whl",
    ],
)
def test_a_machine_path_or_index_host_is_found(text: str) -> None:
    assert rules.forbidden_text(text) != []


def test_ordinary_paths_are_not() -> None:
    assert rules.forbidden_text("data/root/x, https://example.com/home/a, ./work/x, /health") == []


def test_the_lock_covers_every_dependency_with_a_hash_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==[^\n]*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[\[<>=;\s]", line, maxsplit=1)[0].lower() for line in wanted} - {"featurestore"}
    assert names <= {name for name, _ in pins}
    assert len(pins) == len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)), "a pin without a hash"
    assert "://" not in text


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_client_is_thin() -> None:
    assert importlib.util.find_spec("featurestore.client") is not None
    assert imported_by("featurestore.client") & set(THIN_CLIENT_LACKS) == set()


def test_help_starts_without_the_heavy_libraries() -> None:
    heavy = {"polars", "numpy", "pyarrow", "rocksdict", "bytewax", "sqlalchemy", "confluent_kafka"}
    assert imported_by("featurestore.cli") & heavy == set()


def test_a_heavy_import_is_found() -> None:
    assert "numpy" in imported_by("numpy")

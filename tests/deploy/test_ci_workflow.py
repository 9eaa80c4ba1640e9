"""The GitHub Actions workflow of the docs against the command line: it can't be run here, and must not rot."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurestore.contracts.files import load_contracts
from tests.deploy.commands import parse
from tests.docs.pages import blocks_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FILES = {block.file: block.text for block in blocks_of((ROOT / "docs/how-to/check-in-ci.md").read_text()) if block.file}
WORKFLOW: dict[Any, Any] = yaml.safe_load(FILES[".github/workflows/features.yml"])
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def commands(step: dict[str, Any]) -> list[list[str]]:
    return [shlex.split(line) for line in step.get("run", "").splitlines()]


def test_it_runs_for_every_pull_request():
    assert WORKFLOW[True] == "pull_request", "YAML reads `on` as a truth value; GitHub does not"
    assert all(job["runs-on"] and job["timeout-minutes"] for job in WORKFLOW["jobs"].values())


def test_what_it_runs_is_what_the_command_line_knows():
    ours = [words[1:] for step in STEPS for words in commands(step) if words[0] == "featurestore"]
    ((command, options),) = [parse(arguments) for arguments in ours]
    assert command == "check"
    assert options["against"] == "origin/${{ github.base_ref }}"
    for sample in options["sample"]:
        assert sample.partition("=")[2] in FILES


def test_a_command_that_the_command_line_does_not_know_would_be_noticed():
    with pytest.raises(Exception, match="No such option"):
        parse(["check", "--agianst", "origin/main"])


def test_it_fetches_the_branch_that_it_compares_with():
    (checkout,) = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["fetch-depth"] == 0


def test_it_installs_an_extra_and_a_python_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (installed,) = [words[2] for step in STEPS for words in commands(step) if words[:2] == ["pip", "install"]]
    name, extra = re.fullmatch(r"(\w+)\[(\w+)\]", installed).groups()  # type: ignore[union-attr]
    assert name == project["name"]
    assert extra in project["optional-dependencies"]
    (python,) = [step["with"]["python-version"] for step in STEPS if "python-version" in step.get("with", {})]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]


def test_the_contracts_of_the_page_can_be_read(tmp_path: Path):
    path = tmp_path / "card_activity.yaml"
    path.write_text(FILES["contracts/card_activity.yaml"])
    assert len(load_contracts(path, path.name)) == 2

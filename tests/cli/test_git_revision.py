"""The git revision that `plan` and `apply` tell, in real repositories."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore.cli.git_revision import git_revision
from featurestore.examples import write_project
from tests.cli.support import MODULE, answer, command


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in a folder of a repository, committed."""
    folder = tmp_path / "features"
    write_project(folder)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Definitions")
    return folder


def revision(project: Path, *options: str) -> str | None:
    planned: str | None = answer(project, "plan", MODULE, *options)["git_revision"]
    return planned


def test_it_is_the_commit_of_the_work_tree_and_data_make_it_no_dirtier(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    assert f"  git revision {commit}\n" in command(project, "plan", MODULE).stdout
    assert revision(project) == commit
    applied = answer(project, "apply", MODULE)
    assert applied["git_revision"] == commit
    assert (project / "data").is_dir()
    (project / "notes.py").write_text("not imported")
    assert revision(project) == commit


def test_a_changed_file_is_dirty_and_one_outside_the_project_is_not(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    (project.parent / "other.txt").write_text("a")
    git(project.parent, "add", "other.txt")
    assert revision(project) == commit
    module = project / MODULE
    text = module.read_text()
    module.write_text(text + "\n# changed\n")
    assert revision(project) == f"{commit}-dirty"
    module.write_text(text)
    assert revision(project) == commit
    git(project, "mv", "featurestore.toml", "moved.toml")
    assert revision(project) == f"{commit}-dirty"


def test_a_module_or_schema_that_git_does_not_know_is_dirty(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    (project / "pipelines" / "more ä.py").write_text("")
    (project / "schemas" / "more.avsc").write_text("{}")
    assert git_revision(project) == commit
    assert git_revision(project, ["schemas/more.avsc"]) == f"{commit}-dirty"
    (project / "pipelines" / "extra.py").write_text((project / MODULE).read_text())
    assert revision(project) == commit
    assert answer(project, "plan", "pipelines/extra.py")["git_revision"] == f"{commit}-dirty"


def test_what_is_given_counts(project: Path) -> None:
    assert revision(project, "--revision", "v1.4") == "v1.4"
    empty = command(project, "apply", MODULE, "--revision", "")
    assert empty.returncode == 2
    assert "it is empty" in empty.stderr
    assert not (project / "data").exists()


def test_without_a_work_tree_a_commit_or_git_there_is_none(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    bare = tmp_path.parent / f"{tmp_path.name}_bare"
    bare.mkdir()
    assert git_revision(bare) is None
    git(bare, "init", "-q")
    assert git_revision(bare) is None  # no commit yet
    write_project(bare)
    assert revision(bare) is None
    done = subprocess.run(
        [sys.executable, "-m", "featurestore", "plan", MODULE],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(bare), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stderr
    assert "git revision" not in done.stdout


def test_planning_writes_nothing_into_the_repository(project: Path) -> None:
    index = project.parent / ".git" / "index"
    (project / MODULE).touch()
    before = index.stat().st_mtime_ns
    revision(project)
    assert index.stat().st_mtime_ns == before

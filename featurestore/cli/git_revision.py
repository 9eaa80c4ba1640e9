"""The git revision that definitions come from; none where there is no git, or no work tree of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

GIT_TIMEOUT_S = 30.0


def git_revision(directory: Path, schemas: Iterable[str] = ()) -> str | None:
    """The commit of the work tree that `directory` lies in, with "-dirty" when what was planned is not in it.

    Dirty: below `directory` a file of git's has changed, or an imported module or one of these schema files (paths from
    `directory`) is not git's at all. Other files of nobody's, such as the data, change nothing.
    None without git, without a work tree, and before the first commit.
    """
    found = _git(directory, "rev-parse", "HEAD", "--show-toplevel")
    status = _git(directory, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--", ".")
    if found is None or status is None:
        return None
    commit, _, top = found.rstrip("\n").partition("\n")
    files = _module_files(directory) | {(directory / schema).resolve() for schema in schemas}
    return f"{commit}-dirty" if _is_dirty(status, Path(top), files) else commit


def _is_dirty(status: str, top: Path, files: Collection[Path]) -> bool:
    # Changed files come first; so a renamed one, which has two names, is never taken for two.
    entries = status.split("\0")
    return any(
        entry and (not entry.startswith("?? ") or (top / entry.removeprefix("?? ")).resolve() in files)
        for entry in entries
    )


def _module_files(directory: Path) -> set[Path]:
    """Files of all modules below a folder that this process has imported."""
    names = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(name).resolve() for name in names if name}
    return {path for path in paths if path.is_relative_to(directory.resolve())}


def _git(directory: Path, *arguments: str) -> str | None:
    # Without the option `status` writes its index anew; who only plans writes nothing.
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode(errors="surrogateescape")

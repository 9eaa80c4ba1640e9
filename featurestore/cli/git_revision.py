"""Which git revision definitions are of, as far as git knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

TIMEOUT_S = 10


def git_revision(directory: Path) -> str | None:
    """The commit that is checked out where `directory` lies, with "-dirty" when a file under it differs.

    None outside of a work tree, and without git.
    """
    commit = _git(["rev-parse", "HEAD"], directory)
    if not commit:
        return None
    return f"{commit}-dirty" if _git(["status", "--porcelain", "--", "."], directory) else commit


def _git(arguments: list[str], directory: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

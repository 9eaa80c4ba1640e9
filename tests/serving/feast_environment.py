"""A virtual environment with Feast, for tests and the benchmark: its pins do not go with the project's own.

`feast_requirements.lock` pins everything with hashes; its first lines tell how it is made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("feast_requirements.lock")
INSTALL_TIMEOUT_S = 300


class NoFeastError(Exception):
    """Feast can't be installed here."""


def feast_python() -> Path:
    """Python of an environment that has Feast, made on first use and kept in `.cache`. Raises NoFeastError."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = Path(os.environ.get("FEATURESTORE_FEAST_CACHE", ROOT / ".cache")) / f"feast-{version}-{digest}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", *(["--without-pip"] if shutil.which("uv") else []), str(folder)])
    if shutil.which("uv"):
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
    else:
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "--require-hashes", "-r", str(REQUIREMENTS)])
    stamp.touch()
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise NoFeastError(f"{' '.join(command[:4])} … failed: {error.stderr[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NoFeastError(f"{' '.join(command[:4])} … took more than {INSTALL_TIMEOUT_S} s") from error

"""Set up this checkout and run it: `python3 dev.py setup | demo | test [pytest arguments] | lock`.

Standard library only, so that it runs before anything is installed. Everything goes into `.venv`, from
`requirements.lock` with hashes checked; the second time it starts at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
IMAGE_LOCK = ROOT / "deploy" / "requirements.lock"
STAMP = VENV / ".installed"
OLDEST, NEWEST = (3, 10), (3, 12)  # as `requires-python` in pyproject.toml

_COMPILE = [
    "uv", "pip", "compile", "pyproject.toml", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
    "--custom-compile-command", "python3 dev.py lock",
]  # fmt: skip
LOCK_COMMAND = [
    *_COMPILE, "--universal", "--python-version", "3.10", "--all-extras", "--output-file", "requirements.lock",
]  # fmt: skip
# What the container image holds: no tool of developers, the same versions.
IMAGE_LOCK_COMMAND = [
    *_COMPILE, "--universal", "--python-version", "3.12", "--extra", "all", "--group", "build",
    "--constraint", "requirements.lock", "--output-file", "deploy/requirements.lock",
]  # fmt: skip

NO_PYTHON = """\
Error: no Python 3.10, 3.11 or 3.12 with venv and pip found (this one is {version}).
Hint: install one and run this again, for instance
    Debian, Ubuntu    apt-get install python3 python3-venv
    Fedora            dnf install python3.12
    macOS             brew install python@3.12
    pyenv             pyenv install 3.12"""


def main(arguments: list[str]) -> int:
    """Carry out one command; returns the exit code."""
    command, rest = (arguments[0] if arguments else ""), arguments[1:]
    if command == "setup" and not rest:
        set_up()
        return 0
    if command == "demo":
        set_up()
        return run([venv_program("featurestore"), "demo", *rest])
    if command == "test":
        set_up()
        return test(rest)
    if command == "lock":
        return lock(rest)
    print(__doc__, file=sys.stderr)
    return 2


def test(pytest_arguments: list[str]) -> int:
    """Linter, formatter and type checker (all three are run), then the tests if those found nothing."""
    python = venv_program("python")
    # The tests start many processes; none of them should have to compile the library.
    run([python, "-m", "compileall", "-q", "featurestore"])
    failed = 0
    for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        failed = run([python, "-m", *tool]) or failed
    # Many tests wait for processes that they started: two at a time take little more than half as long on two cores. A
    # file's tests stay together, for they share what they have set up.
    return failed or run([python, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *pytest_arguments])


def lock(uv_arguments: list[str]) -> int:
    """Make the lock files again; `--upgrade` takes newer versions."""
    if shutil.which("uv") is None:
        print("Error: making the lock file needs uv.\nHint: pip install uv", file=sys.stderr)
        return 2
    code = run([*LOCK_COMMAND, *uv_arguments]) or run(IMAGE_LOCK_COMMAND)
    if code == 0 and any("://" in path.read_text() for path in (LOCK, IMAGE_LOCK)):
        print("Error: a lock file names a host; it must work with any package index.", file=sys.stderr)
        return 1
    return code


def set_up() -> None:
    """Make `.venv` hold what requirements.lock says and this project as an editable install."""
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    fits = version_of(venv_program("python")) is not None
    if fits and STAMP.exists() and STAMP.read_text() == wanted:
        return
    if not fits:
        python = find_python()
        print(f"Making .venv with {python}", file=sys.stderr)
        run_or_exit([python, "-m", "venv", "--clear", str(VENV)])
    print("Installing requirements.lock into .venv", file=sys.stderr)
    python = venv_program("python")
    if shutil.which("uv") is not None:
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    else:
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_or_exit([*install, "--require-hashes", "-r", str(LOCK)])
    # The build back end is in the lock: nothing outside it is installed.
    run_or_exit([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    STAMP.write_text(wanted)


def find_python() -> str:
    """The first interpreter that fits; exits with 2 when there is none."""
    for candidate in candidates():
        if version_of(candidate) is not None:
            return candidate
    print(NO_PYTHON.format(version=".".join(map(str, sys.version_info[:3]))), file=sys.stderr)
    raise SystemExit(2)


def candidates() -> Iterator[str]:
    """This interpreter, then those on PATH, then pyenv's, the newest first."""
    yield sys.executable
    names = [f"{OLDEST[0]}.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    for name in names:
        found = shutil.which(f"python{name}")
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in names:
        for folder in sorted(pyenv.glob(f"{name}.*"), reverse=True):
            yield str(folder / "bin" / "python")


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter that fits and can make environments, else None."""
    # A pyenv shim exists but fails when its version is not switched on; Debian's python3 may lack ensurepip.
    check = "import ensurepip, venv, sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
    except OSError:
        return None
    if done.returncode != 0:
        return None
    major, minor = (int(part) for part in done.stdout.split())
    return (major, minor) if OLDEST <= (major, minor) <= NEWEST else None


def venv_program(name: str) -> str:
    """Path of a program in `.venv`."""
    return str(VENV / "bin" / name)


def run(command: list[str]) -> int:
    """Run a program in the root of the checkout; its exit code (130 after Ctrl-C)."""
    sys.stdout.flush()
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


def run_or_exit(command: list[str]) -> None:
    """Run a program; exit with its code when it fails."""
    code = run(command)
    if code != 0:
        print(f"Error: {' '.join(command)} failed ({code}).", file=sys.stderr)
        raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

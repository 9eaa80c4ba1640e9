"""A real PostgreSQL server for tests: started, stopped, killed and started again."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

REQUIRE = "FEATURESTORE_REQUIRE_POSTGRES"
"""Set: a test that needs a server fails without one, instead of being skipped."""


def binary(name: str) -> str | None:
    """A program of PostgreSQL, which distributions keep out of the PATH."""
    return next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)), shutil.which(name))


class PostgresServer:
    """A server of its own with an empty database, in a temporary folder. url: how to reach it while it runs."""

    def __init__(self) -> None:
        initdb, postgres = binary("initdb"), binary("postgres")
        if initdb is None or postgres is None:
            if os.environ.get(REQUIRE):
                pytest.fail("no PostgreSQL on this machine")
            pytest.skip("no PostgreSQL on this machine")
        self._folder = Path(tempfile.mkdtemp(prefix="featurestore-postgres-"))
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # which PostgreSQL refuses to be run by
            other = pwd.getpwnam("postgres")
            self._user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
            os.chown(self._folder, other.pw_uid, other.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://reader:word@127.0.0.1:{self._port}/postgres"
        made = [initdb, "-D", str(self._folder / "db"), "-U", "reader", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=self._folder, **self._user)
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"]
        self._command = [postgres, "-D", str(self._folder / "db"), "-p", str(self._port), *settings, "-c", "fsync=off"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder, **self._user
        )
        ready = [str(binary("pg_isready")), "--host=127.0.0.1", f"--port={self._port}", "--quiet"]
        for _ in range(200):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        pytest.fail("PostgreSQL does not start")

    def stop(self) -> None:
        """Stop it at once; connections are cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None

    def execute(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    def empty(self) -> None:
        """Forget everything that tests made."""
        self.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self._folder)

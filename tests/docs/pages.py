"""Run a page of the documentation as its reader would: write its files, run its commands, look at what they say.

A fenced block's first line says what it is: `file=NAME` is written to a file; `sh` is run, `sh background` stays until
the page ends; `python run` is run; `text` is what the block before it printed, line by line, `…` standing for anything.
`retry` on a block: until it prints so, for some seconds. All other blocks are only read.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

from tests.commands import run_command

ROOT = Path(__file__).parents[2]
RETRY_S = 20.0
STARTED_S = 30.0
COMMAND_S = 60.0
PLAIN_COMMANDS = re.compile(r"(featurestore [\w ./:=,@+-]*\n)+")
"""Commands that mean the same without a shell: forked from one process with everything imported, not started anew."""


@dataclass(frozen=True)
class Block:
    """A fenced block: what its first line says, its text, and what it is to print."""

    kind: str
    words: tuple[str, ...]
    text: str
    prints: str | None = None

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order; a `text` block belongs to the one before it."""
    blocks: list[Block] = []
    for token in MarkdownIt().parse(page):
        if token.type != "fence":
            continue
        kind, *words = token.info.split() or [""]
        if kind == "text" and blocks and blocks[-1].kind in ("sh", "python"):
            last = blocks.pop()
            blocks.append(Block(last.kind, last.words, last.text, token.content))
        else:
            blocks.append(Block(kind, tuple(words), token.content))
    return blocks


def missing_lines(expected: str, printed: str) -> list[str]:
    """Lines of `expected` that no line of `printed` is like; blanks do not count."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    missing = []
    for line in filter(None, (" ".join(line.split()) for line in expected.splitlines())):
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in line.split("…")))
        if not any(pattern.fullmatch(found) for found in lines):
            missing.append(line)
    return missing


@dataclass
class Reader:
    """Somebody who follows a page in an empty folder."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _staying: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, page: str) -> None:
        """Do what the page says; raises AssertionError where it is wrong."""
        try:
            for block in blocks_of(page.replace("6566", str(self._port()))):
                self._do(block)
        finally:
            self._leave()

    def _port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": programs,
            "PYTHONPATH": str(ROOT),
            "FEATURESTORE_SERVING__PORT": str(port),
            "FEATURESTORE_WORKER__METRICS_PORT": "0",
        }
        return port

    def _do(self, block: Block) -> None:
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.kind == "sh" and "background" in block.words:
            self._start(block.text)
        elif block.kind == "sh" or (block.kind == "python" and "run" in block.words):
            self._run(block)

    def _run(self, block: Block) -> None:
        until = time.monotonic() + (RETRY_S if "retry" in block.words else 0.0)
        while True:
            done = self._done(block)
            missing = missing_lines(block.prints or "", done.stdout)
            if done.returncode == 0 and not missing:
                return
            if time.monotonic() > until:
                said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
                raise AssertionError(f"{block.text}\nended with {done.returncode}, did not print {missing}:\n{said}")
            time.sleep(0.3)

    def _done(self, block: Block) -> subprocess.CompletedProcess[str]:
        """The block's commands, run one after the other until one fails."""
        if block.kind == "sh" and PLAIN_COMMANDS.fullmatch(block.text):
            done = subprocess.CompletedProcess(block.text, 0, "", "")
            for line in block.text.splitlines():
                one = run_command(shlex.split(line)[1:], self.folder, self.environment, COMMAND_S)
                done.returncode = one.returncode
                done.stdout += one.stdout
                done.stderr += one.stderr
                if one.returncode != 0:
                    break
            return done
        shell = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else [sys.executable, "-c"]
        return subprocess.run(
            [*shell, block.text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )

    def _start(self, text: str) -> None:
        log = self.folder / f".background-{len(self._staying)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._staying.append(process)
        until = time.monotonic() + STARTED_S
        while not log.read_bytes():
            assert process.poll() is None, f"{text} ended with {process.returncode}"
            assert time.monotonic() < until, f"{text} says nothing"
            time.sleep(0.05)

    def _leave(self) -> None:
        """Ctrl-C in every terminal, the last one first."""
        codes = []
        for process in reversed(self._staying):
            process.send_signal(signal.SIGINT)
            try:
                codes.append(process.wait(20))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        self._staying.clear()
        if sys.exc_info()[0] is None:
            assert all(code == 0 for code in codes), codes

"""What is preloaded into processes to make their machine behave badly: a clock that jumps, a disk that is slow."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent


def compiler() -> str | None:
    """The C compiler that builds them, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def _build(name: str, folder: Path) -> Path:
    with_c = compiler()
    assert with_c is not None, "asked for before"
    library = folder / f"{name}.so"
    source = _HERE / f"{name}.c"
    subprocess.run([with_c, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class JumpingClock:
    """The wall clock of processes that have `variables` in their environment. The monotonic one goes on, as it does
    when a machine's clock is set."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "clock-offset"
        self.jump(0)
        library = _build("jumping_clock", folder)
        self.variables = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}

    def jump(self, seconds: int) -> None:
        """Set the clock to that many seconds from the true time."""
        # In place: the processes have it in their memory.
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("q", seconds * 1_000_000))


class SlowDisk:
    """Writes below a folder are slow in processes that have `variables` in their environment.

    bytes_per_s: of all writes of a process together; sync_ms: what each fsync takes.
    """

    def __init__(self, folder: Path, below: Path, *, bytes_per_s: int, sync_ms: int) -> None:
        self._totals = folder / "disk-totals"
        self._totals.write_bytes(bytes(16))
        self.variables = {
            "LD_PRELOAD": str(_build("slow_disk", folder)),
            "SLOW_DISK_FOLDER": str(below.resolve()),
            "SLOW_DISK_BYTES_PER_S": str(bytes_per_s),
            "SLOW_DISK_SYNC_US": str(sync_ms * 1_000),
            "SLOW_DISK_TOTALS": str(self._totals),
        }

    def totals(self) -> tuple[int, float]:
        """Bytes written slowly, and seconds waited for the disk, over all processes."""
        written, waited_us = struct.unpack("qq", self._totals.read_bytes())
        return written, waited_us / 1e6

"""Temporary folders that are gone when their process is: also after it was killed.

Each is locked by its owner for as long as it lives; whoever makes the next one removes those that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_LOCK = ".owner"


class ScratchFolder:
    """A fresh folder of this process under the system's temporary folder; `remove` it, or leave it to the next one.

    kind: what it is for, part of its name.
    """

    def __init__(self, kind: str) -> None:
        prefix = f"featurestore-{kind}-"
        _remove_abandoned(prefix)
        # Locked before it has its final name, so that nobody takes it for abandoned in between.
        fresh = Path(tempfile.mkdtemp(prefix=f"new-{prefix}"))
        self._descriptor = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self.path = fresh.with_name(fresh.name.removeprefix("new-"))
        fresh.rename(self.path)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _remove_abandoned(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        # Gone meanwhile, another user's, or in use: not ours to remove.
        with suppress(OSError):
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)

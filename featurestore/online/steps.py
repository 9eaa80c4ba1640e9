"""Changes of several files that only make sense together, and the moment in which nobody is in the middle of one.

Whoever makes such a change (a worker that writes its outbox, a run that mends what a crash left, a hand-over) does it
inside `whole_step`. Those do not wait for each other. A backup looks at the files inside `between_steps`, while none of
them is under way.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.errors import StoreLockedError

LOCK_NAME = "steps.lock"
"""File of a data_dir that steps hold a shared lock on."""

_POLL_S = 0.002


@contextmanager
def whole_step(data_dir: Path) -> Iterator[None]:
    """A change that a backup sees as a whole or not at all. It may wait while a backup looks: some milliseconds."""
    descriptor = _open(data_dir)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def between_steps(data_dir: Path, *, wait_s: float = 60.0) -> Iterator[None]:
    """No step is under way inside, and none begins. Raises StoreLockedError when some are for longer than `wait_s`."""
    descriptor = _open(data_dir)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise StoreLockedError(
                        f"{data_dir} is being changed without a pause for {wait_s:g} s",
                        hint="a hand-over or a purge may be under way: try again when it has ended",
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _open(data_dir: Path) -> int:
    return os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

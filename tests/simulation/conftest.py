"""No power cuts are simulated, so nothing waits for the disk."""

from __future__ import annotations

import os

import pytest


def never_wait_for_the_disk() -> None:
    """From now on this process syncs nothing."""
    os.fsync = os.fdatasync = lambda descriptor: None


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)

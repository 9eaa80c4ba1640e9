"""What was done to the registry: who, when, what; written in the transaction that does it, and never removed."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy import insert as insert_into

from featurestore.registry.database import Database
from featurestore.registry.tables import CHANGES


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that was done. at: UTC. version, content_hash, git_revision: where they apply."""

    at: datetime
    by: str
    action: str
    kind: str
    name: str
    version: int | None
    content_hash: str | None
    git_revision: str | None
    note: str | None


def record(
    connection: Connection,
    action: str,
    kind: str,
    name: str,
    *,
    version: int | None = None,
    content_hash: str | None = None,
    git_revision: str | None = None,
    note: str | None = None,
) -> None:
    """Write down what the caller's transaction does."""
    row: dict[str, Any] = {
        "action": action,
        "kind": kind,
        "name": name,
        "version": version,
        "content_hash": content_hash,
    }
    row |= {"git_revision": git_revision, "note": note, "at": datetime.now(timezone.utc), "by": user()}
    connection.execute(insert_into(CHANGES).values(**row))


def history(database: Database, name: str | None = None, limit: int = 100) -> list[HistoryEntry]:
    """The newest entries, newest first; of the definitions of one name, or of all."""
    query = select(CHANGES).order_by(CHANGES.c.id.desc()).limit(limit)
    if name is not None:
        query = query.where(CHANGES.c.name == name)
    with database.transaction() as connection:
        return [
            HistoryEntry(
                row.at,
                row.by,
                row.action,
                row.kind,
                row.name,
                row.version,
                row.content_hash,
                row.git_revision,
                row.note,
            )
            for row in connection.execute(query)
        ]


def user() -> str:
    """Who acts: the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"

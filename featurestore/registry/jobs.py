"""Jobs: a record of every run, backfill, materialization, training set and promotion.

A job's record is written by a thread of the process that does it: its start, a heartbeat, its end. A registry that is
down costs the record, never the job. A job that ended without a word (killed, power cut) is told apart when it is read:
its heartbeat is old, or its process is gone.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy import Select, insert, or_, select, update

from featurestore.errors import FeatureStoreError, RegistryError
from featurestore.registry.database import Database
from featurestore.registry.history import user
from featurestore.registry.records import content_hash, encoded
from featurestore.registry.tables import JOBS
from featurestore.registry.versions import Versions

log = structlog.get_logger()

Kind = Literal["run", "backfill", "materialize", "training-set", "promote", "rollback", "retire", "canary"]
"""Named after the commands."""
Outcome = Literal["running", "succeeded", "failed", "abandoned"]

HEARTBEAT_S = 10.0
ABANDONED_AFTER = timedelta(seconds=60)
"""A heartbeat so old is a dead process's: a live one would have had to miss six."""
LAST_WRITE_S = 10.0
"""How long the end of a job waits for the registry."""

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


class OffsetRange(msgspec.Struct, frozen=True):
    """Offsets [first, end) of one partition that a job read. end: None while that is not known."""

    source: str
    generation: str
    partition: int
    first: int
    end: int | None = None


@dataclass(frozen=True)
class Job:
    """One job. Times in UTC; ended_at: None while it runs, and when nobody knows.

    subject: what it worked on, "view@version" of each, comma-separated. definitions_hash: of the definitions that it
    computed with. git_revision: of the modules that these were applied from last, None where that is not known.
    rows: messages that a run or backfill read, rows that a materialization or training set wrote. error: of a failed
    one. host: in a container followed by its pid namespace, since pids mean the same only within one.
    """

    id: str
    kind: str
    subject: str
    outcome: Outcome
    started_at: datetime
    ended_at: datetime | None
    heartbeat_at: datetime
    by: str
    host: str
    pid: int
    definitions_hash: str
    git_revision: str | None
    rows: int | None
    offsets: tuple[OffsetRange, ...]
    error: str | None

    @property
    def last_seen_at(self) -> datetime:
        """Its end, or else its last heartbeat."""
        return self.ended_at or self.heartbeat_at


class JobRecord:
    """A job under way. Its doer sets what it learns; all of it is written with the next heartbeat, and at the end."""

    def __init__(self, kind: Kind, subject: str, definitions_hash: str, git_revision: str | None) -> None:
        self.id = uuid.uuid4().hex
        self.kind: Kind = kind
        self.subject = subject
        self.definitions_hash = definitions_hash
        self.git_revision = git_revision
        self.rows: int | None = None
        self.offsets: tuple[OffsetRange, ...] = ()
        self.error: str | None = None
        self.started_at = datetime.now(timezone.utc)
        self.ended_at: datetime | None = None

    def fail(self, error: str) -> None:
        """Say that the job did not do all that was asked, although nothing is raised."""
        self.error = error

    def row(self) -> dict[str, Any]:
        """Its row, as of now."""
        ended = self.ended_at
        outcome: Outcome = "running" if ended is None else "succeeded" if self.error is None else "failed"
        return {
            "id": self.id,
            "kind": self.kind,
            "subject": self.subject,
            "started_at": self.started_at,
            "heartbeat_at": ended or datetime.now(timezone.utc),
            "ended_at": ended,
            "by": user(),
            "host": _host(),
            "pid": os.getpid(),
            "definitions_hash": self.definitions_hash,
            "git_revision": self.git_revision,
            "outcome": outcome,
            "rows": self.rows,
            "offsets": msgspec.to_builtins(self.offsets) or None,
            "error": None if ended is None else self.error,
        }


class Jobs:
    """The records of jobs in a registry. database: `Registry.database`. heartbeat_s: how often a job shows it lives."""

    def __init__(self, database: Database, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._database = database
        self._heartbeat_s = heartbeat_s

    @contextmanager
    def record(
        self, kind: Kind, subject: str, *, definitions_hash: str = "", git_revision: str | None = None
    ) -> Iterator[JobRecord]:
        """Keep the record of what the block does: it succeeds, or fails when the block raises.

        A registry that can't be written is told once in the log, and tried again with each heartbeat.
        """
        job = JobRecord(kind, subject, definitions_hash, git_revision)
        keeper = _Keeper(self._database, job, self._heartbeat_s)
        try:
            yield job
        except BaseException as error:
            job.fail(_told(error))
            raise
        finally:
            keeper.end()

    def record_version(self, kind: Kind, view: str, version: int) -> None:
        """Record what was done at once to a version of a view, such as its promotion; called after it was done.

        A registry that can't be read or written by now is told in the log.
        """
        subject = f"{view}@{version}"
        try:
            (found,) = (one for one in Versions(self._database).of(view) if one.version == version)
            job = JobRecord(kind, subject, found.content_hash, found.git_revision)
            job.ended_at = job.started_at
            _write(self._database, job)
        except RegistryError as error:
            log.warning("job_not_recorded", kind=kind, subject=subject, error=error.message)

    def find(
        self,
        *,
        kind: Kind | None = None,
        view: str | None = None,
        failed: bool = False,
        limit: int | None = None,
        now: datetime | None = None,
    ) -> list[Job]:
        """Jobs, newest first. view: "name" or "name@version". failed: only those that failed or were abandoned."""
        query = select(JOBS).order_by(JOBS.c.started_at.desc(), JOBS.c.id)
        if kind is not None:
            query = query.where(JOBS.c.kind == kind)
        if view is not None:
            query = query.where(JOBS.c.subject.contains(view, autoescape=True))
        if failed:
            query = query.where(or_(JOBS.c.outcome == "failed", JOBS.c.outcome == "running"))
        found: list[Job] = []
        for job in self._read(query, now):
            if (view is None or _works_on(job, view)) and (not failed or job.outcome in ("failed", "abandoned")):
                found.append(job)
                if len(found) == limit:
                    break
        return found

    def get(self, identity: str) -> Job:
        """One job, by its id or the beginning of it. Raises RegistryError."""
        query = select(JOBS).where(JOBS.c.id.startswith(identity, autoescape=True)).limit(2)
        found = list(self._read(query, None))
        if len(found) != 1:
            what = "several jobs have ids that begin" if found else "no job has an id that begins"
            raise RegistryError(f"{what} with '{identity}'", hint="see featurestore jobs")
        return found[0]

    def _read(self, query: Select[Any], now: datetime | None) -> Iterator[Job]:
        now = now or datetime.now(timezone.utc)
        # A registry may hold the jobs of years: only those that are looked at are read.
        some = query.execution_options(yield_per=200)
        with self._database.transaction() as connection, closing(connection.execute(some)) as rows:
            for row in rows:
                yield _job(row, now)


def definitions_hash(specs: Iterable[object]) -> str:
    """SHA-256 of definitions, hexadecimal: the same for the same ones, in whatever order."""
    return content_hash("\n".join(sorted(encoded(spec) for spec in specs)))


def last_revision(views: Sequence[Any]) -> str | None:
    """The git revision of the view that was applied last. views: registered ones of either kind."""
    newest = max(views, key=lambda view: view.applied_at, default=None)
    revision: str | None = None if newest is None else newest.git_revision
    return revision


class _Keeper:
    """Writes a job's record from a thread of its own: a slow or absent registry holds nobody up."""

    def __init__(self, database: Database, job: JobRecord, heartbeat_s: float) -> None:
        self._database = database
        self._job = job
        self._heartbeat_s = heartbeat_s
        self._ended = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._keep, name="job-record", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._job.ended_at = datetime.now(timezone.utc)
        self._ended.set()
        self._thread.join(LAST_WRITE_S)
        if self._thread.is_alive():
            log.warning("job_not_recorded", job=self._job.id, error="the registry does not answer")

    def _keep(self) -> None:
        wait_s = 0.0
        ended = False
        while not ended:
            ended = self._ended.wait(wait_s)
            wait_s = self._heartbeat_s
            try:
                _write(self._database, self._job)
            except RegistryError as error:
                if not self._told:
                    log.warning("job_not_recorded", job=self._job.id, error=error.message)
                self._told = True


def _write(database: Database, job: JobRecord) -> None:
    row = job.row()
    with database.transaction(write=True) as connection:
        if not connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(**row)).rowcount:
            connection.execute(insert(JOBS).values(**row))


def _job(row: Any, now: datetime) -> Job:
    outcome: Outcome = row.outcome
    if outcome == "running" and (now - row.heartbeat_at > ABANDONED_AFTER or _gone(row.host, row.pid)):
        outcome = "abandoned"
    offsets = msgspec.convert(row.offsets or [], tuple[OffsetRange, ...])
    fields = {name: value for name, value in row._mapping.items() if name not in ("outcome", "offsets")}
    return Job(**fields, outcome=outcome, offsets=offsets)


def _works_on(job: Job, view: str) -> bool:
    subjects = [subject.strip() for subject in job.subject.split(",")]
    return any(view in (subject, subject.partition("@")[0]) for subject in subjects)


def _host() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        return socket.gethostname()
    return socket.gethostname() if namespace == _INITIAL_PID_NAMESPACE else f"{socket.gethostname()} {namespace}"


def _gone(host: str, pid: int) -> bool:
    if host != _host():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, as another user
        return False
    return _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended, and its parent has not noticed yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _told(error: BaseException) -> str:
    if isinstance(error, FeatureStoreError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")

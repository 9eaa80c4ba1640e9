"""Events of jobs in the OpenLineage format, sent by OpenLineage's own client as it is configured.

Nothing is sent, and the client is not even imported, unless its transport is configured: OPENLINEAGE_URL,
OPENLINEAGE__TRANSPORT__…, OPENLINEAGE_CONFIG, or an openlineage.yml here or in ~/.openlineage. Everything happens in a
thread: a receiver that is slow, down or wrong costs events, never the job.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from featurestore.errors import FeatureStoreError
from featurestore.lineage_events.datasets import Column, Dataset, job_namespace
from featurestore.registry.jobs import JobRecord

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.facet_v2 import DatasetFacet, JobFacet, RunFacet, column_lineage_dataset

log = structlog.get_logger()

LAST_SEND_S = 10.0
"""How long the end of a job waits for its last event to be sent."""

_CONFIG_FILE = "openlineage.yml"
_DIRECT = frozenset({"IDENTITY", "TRANSFORMATION", "AGGREGATION"})

Datasets = tuple[Sequence[Dataset], Sequence[Dataset]]
"""Inputs and outputs."""


@dataclass(frozen=True)
class _Message:
    """An event to be. state: "START", "COMPLETE", "FAIL", "ABORT". describe: its inputs and outputs."""

    state: str
    at: datetime
    describe: Callable[[], Datasets]
    error: str | None = None


class LineageRun:
    """The events of one job. name: of the job, the same each time; streaming: it goes on until it is stopped."""

    def __init__(self, job: JobRecord, name: str, *, streaming: bool, query: str | None = None) -> None:
        self._job = job
        self._name = name
        self._streaming = streaming
        self._query = query
        self._describe: Callable[[], Datasets] = lambda: ((), ())
        self._messages: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        self._started = False
        self._warned = False
        self._thread: threading.Thread | None = None
        if _configured():
            self._thread = threading.Thread(target=self._send_all, name="lineage-events", daemon=True)
            self._thread.start()

    def describe(self, datasets: Callable[[], Datasets]) -> None:
        """Say what is read and written, called only when it is sent; the first time starts the job."""
        self._describe = datasets
        if not self._started:
            self._put("START", self._job.started_at)
            self._started = True

    def end(self, state: str, error: str | None = None) -> None:
        """Send the last event, and wait for it a while."""
        if self._thread is None:
            return
        self.describe(self._describe)
        self._put(state, datetime.now(timezone.utc), error)
        self._messages.put(None)
        self._thread.join(LAST_SEND_S)
        if self._thread.is_alive():
            self._warn("the receiver does not answer")

    def _put(self, state: str, at: datetime, error: str | None = None) -> None:
        if self._thread is not None:
            self._messages.put(_Message(state, at, self._describe, error))

    def _send_all(self) -> None:
        # The one line that we log says enough; urllib3 would add one for each try.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        client: OpenLineageClient | None = None
        while (message := self._messages.get()) is not None:
            try:
                if client is None:
                    client = _open_client()
                if client is None:
                    return
                client.emit(self._event(message))
            except ModuleNotFoundError as error:
                self._warn(f"{error.name} is not installed: pip install 'featurestore[openlineage]'")
            except Exception as error:  # noqa: BLE001 - whatever a transport raises, the job goes on
                self._warn(f"{type(error).__name__}: {error}")
        if client is not None:
            client.close(LAST_SEND_S)

    def _warn(self, error: str) -> None:
        if not self._warned:
            log.warning("lineage_event_not_sent", job=self._job.id, error=error)
        self._warned = True

    def _event(self, message: _Message) -> RunEvent:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, processing_engine_run, sql_job

        engine = processing_engine_run.ProcessingEngineRunFacet(version=version("featurestore"), name="featurestore")
        run_facets: dict[str, RunFacet] = {"processing_engine": engine}
        if message.error is not None:
            run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message.error, "python")
        kind = job_type_job.JobTypeJobFacet(
            processingType="STREAMING" if self._streaming else "BATCH",
            integration="FEATURESTORE",
            jobType=self._job.kind.upper().replace("-", "_"),
        )
        job_facets: dict[str, JobFacet] = {"jobType": kind}
        if self._query is not None:
            job_facets["sql"] = sql_job.SQLJobFacet(self._query)
        inputs, outputs = message.describe()
        return RunEvent(
            eventType=RunState[message.state],
            eventTime=message.at.isoformat(),
            run=Run(str(UUID(self._job.id)), run_facets),
            job=Job(job_namespace(), self._name, job_facets),
            inputs=[_input(dataset) for dataset in inputs],
            outputs=[_output(dataset) for dataset in outputs],
        )


@contextmanager
def lineage_of(job: JobRecord, name: str, *, streaming: bool = False, query: str | None = None) -> Iterator[LineageRun]:
    """Send the events of what the block does, if OpenLineage is configured.

    COMPLETE at its end, FAIL when it raises, ABORT when it was stopped or said that the job failed. name: as in
    LineageRun; query: of a database that the job reads.
    """
    run = LineageRun(job, name, streaming=streaming, query=query)
    try:
        yield run
    except BaseException as error:
        told = str(error) if isinstance(error, FeatureStoreError) else f"{type(error).__name__}: {error}"
        run.end("FAIL" if isinstance(error, Exception) else "ABORT", told)
        raise
    run.end("COMPLETE" if job.error is None else "ABORT", job.error)


def _configured() -> bool:
    """Whether it is worth importing the client, which looks at the same places."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if any(
        name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG") or name.startswith("OPENLINEAGE__TRANSPORT")
        for name, value in os.environ.items()
        if value
    ):
        return True
    places = [Path.cwd() / _CONFIG_FILE, Path("~/.openlineage").expanduser() / _CONFIG_FILE]
    return any(place.is_file() for place in places)


def _open_client() -> OpenLineageClient | None:
    """The client; None when its configuration names no transport, for which it would print events on stdout."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.facet_v2 import set_producer

    set_producer(f"urn:featurestore:{version('featurestore')}")
    client = OpenLineageClient()
    asked = client.config.transport or {}
    return None if client.transport.kind == "console" and asked.get("type") != "console" else client


def _input(dataset: Dataset) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(dataset.namespace, dataset.name, facets=_facets(dataset))


def _output(dataset: Dataset) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    found = OutputDataset(dataset.namespace, dataset.name, facets=_facets(dataset))
    if dataset.rows is not None:
        rows = statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows)
        found.outputFacets = {"outputStatistics": rows}
    return found


def _facets(dataset: Dataset) -> dict[str, DatasetFacet]:
    from openlineage.client.facet_v2 import column_lineage_dataset, schema_dataset, storage_dataset

    facets: dict[str, DatasetFacet] = {}
    if dataset.columns:
        field = schema_dataset.SchemaDatasetFacetFields
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            [field(column.name, column.dtype, column.description or None) for column in dataset.columns]
        )
    if dataset.storage:
        facets["storage"] = storage_dataset.StorageDatasetFacet(dataset.storage, dataset.file_format or None)
    made = {column.name: _made_from(column) for column in dataset.columns if column.reads}
    if made:
        facets["columnLineage"] = column_lineage_dataset.ColumnLineageDatasetFacet(made)
    return facets


def _made_from(column: Column) -> column_lineage_dataset.Fields:
    from openlineage.client.facet_v2 import column_lineage_dataset as facet

    inputs: dict[tuple[str, str, str], list[facet.Transformation]] = {}
    for read in column.reads:
        kind = "DIRECT" if read.how in _DIRECT else "INDIRECT"
        inputs.setdefault((read.namespace, read.dataset, read.column), []).append(
            facet.Transformation(kind, read.how, read.expression or None, masking=False)
        )
    return facet.Fields([facet.InputField(*key, transformations=found) for key, found in inputs.items()])

"""One worker process: builds hosts and dataflow from the plan and runs it until its end or a drain."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

import structlog
from bytewax._bytewax import cluster_main

from featurestore.compile.bind import BoundView, bind_view
from featurestore.config import Settings
from featurestore.errors import FeatureStoreError
from featurestore.observability import Metrics, create_metrics, serve_metrics, write_metrics
from featurestore.offline.atomic import store_error
from featurestore.online.scratch import ScratchFolder
from featurestore.worker.archive_task import ArchiveTask
from featurestore.worker.flow import ReadingTask, build_flow
from featurestore.worker.host import SourceHost
from featurestore.worker.plan import RunPlan, SourcePlan
from featurestore.worker.source import SourceTask

log = structlog.get_logger()

EPOCH_S = 0.1
"""bytewax has no backpressure inside an epoch: short ones bound what a slow shard can let pile up."""

WRITE_METRICS_S = 0.5


def run_process(
    plan: RunPlan,
    settings: Settings,
    metrics: Metrics,
    *,
    process: int = 0,
    addresses: Sequence[str] = (),
) -> None:
    """Run one process of the cluster; returns when all its work is durable: at the end, drained, or to be planned anew.

    addresses: host:port of every process's bytewax listener, empty when there is only one. Raises what stopped it.
    """
    processes = max(len(addresses), 1)
    hosts: dict[str, SourceHost] = {}
    sources: dict[str, tuple[Callable[[int, int], ReadingTask], SourceHost]] = {}
    for source in plan.sources:
        views = [bind_view(view.compile(source.source)) for view in source.views]
        host = SourceHost(source, views, settings, metrics, run_id=plan.run_id, process=process)
        hosts[source.source.name] = host
        sources[source.source.name] = (
            _task_builder(plan, source, views, settings, metrics, process, processes),
            host,
        )
    if plan.reads_archive:
        # Nothing goes from one process to another, so each is a dataflow of its own.
        addresses = ()
    flow = build_flow(sources, lambda: plan.close_windows and not plan.drain_requested())
    interval = min(EPOCH_S, settings.worker.commit_interval_s)
    # What the imports made lives as long as the process: full collections need not walk it.
    gc.freeze()
    log.info("worker_started", process=process, processes=processes, sources=sorted(sources))
    try:
        worker = process if addresses else 0
        cluster_main(flow, list(addresses), worker, epoch_interval=timedelta(seconds=interval))  # type: ignore[no-untyped-call]
    except BaseException as error:
        raise cause_of(error) from error
    for host in hosts.values():
        host.close()
    log.info("worker_finished", process=process, drained=plan.drain_requested())


def show_metrics(plan: RunPlan, settings: Settings, process: int) -> Metrics:
    """The metrics of this process, served over HTTP and written for a live display, as far as wanted."""
    metrics = create_metrics()
    if settings.worker.metrics_port:
        serve_metrics(settings.worker.metrics_port + process, settings.worker.metrics_host)
    if plan.metrics_dir is not None:
        write_metrics(Path(plan.metrics_dir) / f"{process}.prom", WRITE_METRICS_S)
    return metrics


@contextmanager
def drain_marker() -> Iterator[Path]:
    """The drain marker of a run, which signals to this process make, in a temporary folder of the run's own.

    The folder is gone afterwards; when this process is killed, the next run removes it.
    """
    scratch = ScratchFolder("run")
    marker = scratch.path / "drain"
    install_drain_handlers(marker)
    try:
        yield marker
    finally:
        scratch.remove()


def install_drain_handlers(marker: Path) -> None:
    """SIGINT and SIGTERM to this process ask every process of the run to finish what it has read."""

    def request_drain(signum: int, frame: FrameType | None) -> None:
        # A run that is over has taken its folder away.
        with suppress(FileNotFoundError):
            marker.touch()

    signal.signal(signal.SIGINT, request_drain)
    signal.signal(signal.SIGTERM, request_drain)


def cause_of(error: BaseException) -> BaseException:
    """The error of ours inside what bytewax wraps around it, or the error itself.

    A file that could not be written, wherever that was, is an error of ours too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FeatureStoreError):
            return cause
        if isinstance(cause, OSError) and cause.filename is not None:
            ours = store_error(cause.filename, cause)
            if ours is not None:
                return ours
        cause = cause.__cause__ or cause.__context__
    return error


def _task_builder(
    plan: RunPlan,
    source: SourcePlan,
    views: Sequence[BoundView],
    settings: Settings,
    metrics: Metrics,
    process: int,
    processes: int,
) -> Callable[[int, int], ReadingTask]:
    def build(index: int, count: int) -> ReadingTask:
        if source.archive is not None:
            return ArchiveTask(source, views, metrics, plan, process=process, processes=processes)
        return SourceTask(source, views, settings, metrics, plan, process=index, processes=count)

    return build

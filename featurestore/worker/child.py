"""Entry of a process of the cluster: `python -m featurestore.worker.child PLAN SETTINGS INDEX LIFELINE ADDRESS…`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

EXIT_FEATURE_STORE_ERROR = 3
"""Exit code for an error of ours that the child has told in its log; any other failure is a bug's."""


def watch_lifeline(descriptor: int) -> None:
    """End this process at once when the supervisor is gone, so that no orphan holds a lock.

    descriptor: the read end of a pipe whose only writer is the supervisor.
    """

    def watch() -> None:
        os.read(descriptor, 1)
        os._exit(EXIT_FEATURE_STORE_ERROR)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run one child; returns its exit code."""
    plan_path, settings_path, index, lifeline, *addresses = arguments
    watch_lifeline(int(lifeline))

    import structlog

    from featurestore.config import Settings
    from featurestore.errors import FeatureStoreError
    from featurestore.observability import configure_logging
    from featurestore.worker.plan import read_plan
    from featurestore.worker.process import install_drain_handlers, run_process, show_metrics

    plan = read_plan(Path(plan_path))
    # With a live display the log goes through a pipe, but a person reads it.
    configure_logging(plan.log_level, json=False if plan.metrics_dir else None)
    log = structlog.get_logger()
    settings = Settings.model_validate_json(Path(settings_path).read_text())
    install_drain_handlers(Path(plan.drain_marker))
    metrics = show_metrics(plan, settings, int(index))
    try:
        run_process(plan, settings, metrics, process=int(index), addresses=addresses)
    except FeatureStoreError as error:
        log.error("worker_failed", process=int(index), error=error.message, hint=error.hint)
        return EXIT_FEATURE_STORE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

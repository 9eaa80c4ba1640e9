"""What several bounded runs leave behind, one after the other, on a log that grew between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.oracle.model import Message, SourceParams, Verdict, View
from tests.oracle.verdicts import Key, judge
from tests.oracle.windows import Dataset, snapshots, view_watermark


@dataclass(frozen=True)
class Run:
    """A run with `--until-end`. ends: by partition, the offset that it stopped before, 0 if none."""

    ends: Mapping[int, int]
    close_windows: bool = False


@dataclass
class RunsResult:
    """rows: as `snapshots` gives them. watermark: the view's, kept from run to run; it never goes back.

    undetermined: (dataset, key, window end) of rows that may be there or not: new ones below the end that an
    earlier run closed its windows up to, of which a shard knows only its own part. Leave them out of a comparison.
    """

    rows: dict[str, Dataset] = field(default_factory=dict)
    undetermined: set[tuple[str, Key, int]] = field(default_factory=set)
    watermark: int | None = None


def snapshots_of_runs(view: View, messages: Sequence[Message], params: SourceParams, runs: Sequence[Run]) -> RunsResult:
    """The final rows after all runs.

    A row that was emitted does not change any more when it ends at or before the watermark that the run started
    with, less the allowed lateness. Only events of a partition that was empty before can be so old; without
    them, and without windows closed on the way, the result is that of one run to the last ends.
    """
    verdicts = judge(messages, params)  # of the log alone, whatever the runs
    result = RunsResult()
    closed: dict[str, int] = {}
    for run in runs:
        log = _part(messages, verdicts, run.ends)
        now = snapshots(view, *log, params, close_windows=True)
        started_with = result.watermark
        reached = view_watermark(*log, params)
        if reached is not None:
            result.watermark = reached if started_with is None else max(started_with, reached)
        for name, rows in now.items():
            kept = result.rows.setdefault(name, {})
            for (key, end), row in rows.items():
                was_passed = started_with is not None and end <= started_with
                if was_passed or (key, end) in kept:
                    beyond = started_with is not None and end <= started_with - params.lateness_us
                    if not beyond:
                        kept[key, end] = row
                elif run.close_windows or (result.watermark is not None and end <= result.watermark):
                    kept[key, end] = row
                elif end <= closed.get(name, end - 1):
                    result.undetermined.add((name, key, end))
        if run.close_windows:
            for name, rows in now.items():
                ends = [end for _, end in rows]
                closed[name] = max([*ends, *([closed[name]] if name in closed else [])], default=0)
    return result


def _part(
    messages: Sequence[Message], verdicts: Sequence[Verdict], end: Mapping[int, int]
) -> tuple[list[Message], list[Verdict]]:
    """Messages below `end` in each partition, with their verdicts."""
    chosen = [
        (message, verdict)
        for message, verdict in zip(messages, verdicts, strict=True)
        if message.offset < end.get(message.partition, 0)
    ]
    return [message for message, _ in chosen], [verdict for _, verdict in chosen]

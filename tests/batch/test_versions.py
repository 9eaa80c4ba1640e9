"""Versions of a batch view side by side in one store: each on its own, compared, promoted when filled, purged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from featurestore.cli.batch_status import check_filled
from featurestore.cli.materialize import to_promote
from featurestore.cli.offline_datasets import Chosen
from featurestore.cli.side_messages import Deployed
from featurestore.cli.version_comparison import VersionComparison, compare_versions
from featurestore.cli.version_cost import version_costs
from featurestore.cli.version_verdict import Thresholds, Verdict, judge
from featurestore.definitions.batch import FileSource
from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import BatchViewSpec
from featurestore.errors import RegistryError
from featurestore.offline.layout import batch_dir
from featurestore.online.usage import measure_versions
from featurestore.registry import RegisteredBatchView, Registry
from featurestore.worker.purge import Leftover, find_leftovers, purge_versions
from tests.batch.support import Project, Row, compiled, hours, write_rows

OLD, NEW = compiled(), compiled(FileSource("other/*.parquet", event_time="at", created_time="loaded"), version=2)
THRESHOLDS = Thresholds(behind_us=60_000_000, psi=0.2, null_rise=0.01, not_found_rise=0.01)


class KilledError(Exception):
    """The process ended here."""


@dataclass
class Kill:
    """A crash point that raises at its n-th call."""

    at: int
    calls: int = 0

    def __call__(self, point: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise KilledError(point)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The sources of two versions: cards a and b, of ten times the credit in the second."""
    write_rows(tmp_path / "rows" / "1.parquet", [Row("a", 1, 10, 1), Row("b", 2, 20, 2)])
    write_rows(tmp_path / "other" / "1.parquet", [Row("a", 1, 100, 1), Row("b", 2, 200, 2)])
    return Project(tmp_path)


def registered(view=OLD) -> RegisteredBatchView:  # type: ignore[no-untyped-def]
    return RegisteredBatchView(7, view.version, view.spec, datetime.now(timezone.utc), "test")


def credit(project: Project, view=OLD) -> list[object]:  # type: ignore[no-untyped-def]
    return list(project.read(view, ["a", "b"], 30).columns["credit"].values)


def test_versions_of_a_view_do_not_touch_each_other(project: Project) -> None:
    project.materialize(OLD, 5)
    assert project.materialize(NEW, 6)[0].from_time is None  # it begins anew
    assert (credit(project), credit(project, NEW)) == ([10, 20], [100, 200])
    write_rows(project.folder / "rows" / "2.parquet", [Row("b", 7, 21, 7)])
    with pytest.raises(KilledError):
        project.materialize(NEW, 8, crash_point=Kill(1))
    (done,) = project.materialize(OLD, 9)
    assert (done.from_time, done.rows, done.entities) == ("2026-11-23T05:00:00Z", 1, 2)
    assert [one.resumed for one in project.materialize(NEW, 9)] == [True, False]
    assert (credit(project), credit(project, NEW)) == ([10, 21], [100, 200])
    assert (len(project.rows(OLD)), len(project.rows(NEW))) == (3, 2)


def test_a_purge_takes_the_retired_version_alone_and_is_finished_after_a_crash(project: Project) -> None:
    project.materialize(OLD, 5)
    project.materialize(NEW, 5)
    data, view, files = project.data, registered(NEW), project.files(NEW)
    (left,) = find_leftovers(data, view, [2])
    assert left == Leftover(1, 2, left.online_bytes, sum(map(len, project.files(OLD).values())))
    assert find_leftovers(data, view, [1, 2]) == []
    kept = measure_versions(data, view.store)[7, 2]
    points = []
    for at in (1, 2, 3, 4):
        with pytest.raises(KilledError) as killed:
            purge_versions(data, view, [1], crash_point=Kill(at))
        points.append(str(killed.value))
        assert (find_leftovers(data, view, [2]) == []) == (at == 4)
        assert (credit(project, NEW), project.files(NEW)) == ([100, 200], files)
    assert points == ["shard_purged", "recovered", "marker_removed", "files_removed"]
    purge_versions(data, view, [1])
    # Nothing is left, the list of the files that it had read included.
    assert measure_versions(data, view.store) == {(7, 2): kept}
    assert project.materialize(NEW, 6)[0].read == 0


def compare(project: Project, old=OLD, new=NEW) -> tuple[VersionComparison, Verdict]:  # type: ignore[no-untyped-def]
    registry = Registry.open(project.data / "registry.db")
    try:
        found = compare_versions(project.data, registry, registered(old), registered(new), sample=None)
    finally:
        registry.close()
    return found, judge(found, THRESHOLDS)


def test_two_versions_are_compared_by_what_readers_get(project: Project) -> None:
    same = compiled(ttl="90d", version=2)
    assert compare(project)[1].answer == "not ready"  # nothing is stored of any
    project.materialize(OLD, 5)
    found, verdict = compare(project)
    assert (found.as_of, verdict.reasons) == (
        None,
        ["no run has materialized limits@2 to its end: featurestore materialize limits@2"],
    )
    project.materialize(same, 5)
    found, verdict = compare(project, new=same)
    assert verdict.answer == "promote"
    assert (found.both, found.sampled, found.features[0].equal_share, found.is_batch) == (2, 2, 1.0, True)
    assert (found.new.newest_event, found.new.watermark) == ("2026-11-23T02:00:00Z", "2026-11-23T05:00:00Z")
    assert (found.new.events, found.new.rows) == (2, 2)
    assert found.new.online_bytes > 0 < found.new.offline_bytes
    write_rows(project.folder / "rows" / "2.parquet", [Row("c", 5, 30, 5), Row("a", 5, None, 5)])
    project.materialize(OLD, 8)
    found, verdict = compare(project, new=same)
    assert found.behind_us == hours(8) - hours(5)
    assert verdict.reasons == [
        "version 2 is materialized until 2026-11-23T05:00:00Z, version 1 until 2026-11-23T08:00:00Z: "
        "featurestore materialize limits"
    ]
    # The other way round it is ahead; and reads are as of after the newest row of either.
    found, verdict = compare(project, old=same, new=OLD)
    assert (found.only_new, found.both, verdict.answer) == (1, 2, "look first")
    assert found.features[0].new.null_rate == pytest.approx(1 / 3)


@pytest.fixture
def registry(project: Project) -> Iterator[Registry]:
    opened = Registry.open(project.data / "registry.db")
    yield opened
    opened.close()


def apply(registry: Registry, spec: BatchViewSpec) -> None:
    registry.apply(registry.plan(ResolvedDefinitions({}, {}, {spec.name: spec})))


def test_readers_are_moved_only_to_a_version_that_is_filled(project: Project, registry: Registry) -> None:
    for spec in (OLD.spec, NEW.spec):
        apply(registry, spec)
    views = [type(OLD)(one.view_id, one.version, one.spec) for one in registry.live_batch_views()]

    def check(version: int) -> str | None:
        return check_filled(project.data, registry, "limits", version)

    assert check(2) is None  # the served one has nothing either
    project.materialize(views[0], 5)
    with pytest.raises(RegistryError, match="no run has materialized version 2 of batch view 'limits' to its end"):
        check(2)
    with pytest.raises(KilledError):
        project.materialize(views[1], 4, crash_point=Kill(3))
    with pytest.raises(RegistryError, match="to its end"):
        check(2)
    project.materialize(views[1], 4)
    warning = check(2)
    assert warning is not None
    assert warning.startswith("limits@2 is materialized until 2026-11-23T04:00:00Z, limits@1 until 2026-11-23T05")
    project.materialize(views[1], 5)
    assert check(2) is check(1) is check(9) is None


def test_a_version_is_to_be_promoted_until_somebody_decided_about_it(project: Project, registry: Registry) -> None:
    third = compiled(FileSource("third/*.parquet", event_time="at")).spec

    def asked(spec: BatchViewSpec) -> frozenset[str]:
        plan = registry.plan(ResolvedDefinitions({}, {}, {"limits": spec}))
        registry.apply(plan)
        return to_promote(registry, plan, ["limits"])

    assert asked(OLD.spec) == frozenset()  # the first is served
    assert asked(NEW.spec) == {"limits@2"}
    assert asked(NEW.spec) == {"limits@2"}  # again, for the first call may have filled nothing
    registry.versions.set_canary("limits", 2, 0.5)
    assert asked(NEW.spec) == frozenset()
    registry.versions.promote("limits", 2)
    assert asked(third) == {"limits@3"}
    for version in (3, 1, 2):
        registry.versions.promote("limits", version)
    assert registry.routes()["limits"].role(3) == "shadow"
    assert asked(third) == frozenset()
    assert asked(OLD.spec) == {"limits@1"}  # what is computed still, by a definition that is applied anew


def test_a_plan_tells_what_a_second_version_takes(project: Project, registry: Registry) -> None:
    apply(registry, OLD.spec)
    plan = registry.plan(ResolvedDefinitions({}, {}, {"limits": NEW.spec}))
    assert version_costs(project.data, plan, registry.batch_views()) == []
    (view,) = registry.batch_views()
    project.materialize(type(OLD)(view.view_id, view.version, view.spec), 5)
    (cost,) = version_costs(project.data, plan, registry.batch_views())
    stored = measure_versions(project.data, view.store)[view.view_id, 1]
    assert (cost.entities, cost.online_bytes) == (2, stored.rows_bytes)
    assert "about 2 keys" in cost.text()
    assert "of 2 rows" in cost.text()
    unchanged = registry.plan(ResolvedDefinitions({}, {}, {"limits": OLD.spec}))
    assert version_costs(project.data, unchanged, registry.batch_views()) == []


@pytest.mark.parametrize("served", [OLD, NEW])
def test_files_of_an_interval_that_any_version_has_begun_are_no_table_yet(project: Project, served) -> None:  # type: ignore[no-untyped-def]
    for view in (OLD, NEW):
        project.materialize(view, 5)
        write_rows(project.folder / view.spec.source.path.split("/")[0] / "2.parquet", [Row("c", 6, 1, 6)])  # type: ignore[union-attr]
        with pytest.raises(KilledError):
            project.materialize(view, 8, crash_point=Kill(4))
        assert len(project.files(view)) == 2
    folders = [batch_dir(project.data / "offline", "limits", version) for version in (1, 2)]
    chosen = Chosen(project.data, Deployed({}, {}, {"limits": registered(served)}), [], [], folders)
    assert [len(one.files) for one in chosen.plan_tables()] == [1, 1]

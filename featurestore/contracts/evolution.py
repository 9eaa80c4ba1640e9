"""What changed towards those who rely on it: schemas towards messages, features towards their consumers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from featurestore.contracts.baseline import Baseline, topic_schema
from featurestore.contracts.compatibility import incompatibilities
from featurestore.contracts.gather import Project
from featurestore.contracts.report import Finding, Level, failure
from featurestore.definitions.specs import BatchViewSpec, ViewSpec
from featurestore.errors import SchemaError

Consumers = Mapping[str, Sequence[str]]
"""By "view:feature", the names of what reads it (feature services, models)."""

AnyView = ViewSpec | BatchViewSpec


def schema_changes(project: Project, baseline: Baseline, accepted: Collection[str] = ()) -> Iterator[Finding]:
    """Whether each source's schema bears the change by its compatibility mode.

    accepted: "source.field" of changes that are meant: told as warnings.
    """
    for name, source in sorted(project.resolved.sources.items()):
        subject = f"source {name}"
        mode = project.definitions.sources[name].compatibility
        before = baseline.snapshot.sources.get(name)
        if before is None:
            yield Finding("schemas", "ok", subject, f"it is new: there is none in {baseline.place}")
            continue
        if (before.format == "json") != (source.format == "json"):
            message = f"its format was {before.format} and is {source.format}: old and new values can't be told apart"
            yield _breaking("schemas", subject, message, _NEW_TOPIC, f"{name}.format" in accepted)
            continue
        text = None
        if baseline.from_files:
            text = (project.directory / source.schema).read_text(encoding="utf-8")
        old, new = baseline.schema(name), topic_schema(source, text)
        assert old is not None, "its spec is there"
        try:
            broken = incompatibilities(old, new, mode)
        except SchemaError as error:
            yield failure("schemas", subject, error)
            continue
        for one in broken:
            reads = _READS[one.direction].format(place=baseline.place)
            message = f"{source.schema}, field '{one.field}': {one.why} ({one.rule}); {reads}"
            yield _breaking("schemas", subject, message, _NEW_TOPIC, f"{name}.{one.field}" in accepted)
        if not broken:
            yield Finding("schemas", "ok", subject, f"{mode} compatible with {baseline.place}")


_READS = {
    "backward": "so the new schema can't read what was written by {place} (not backward compatible)",
    "forward": "so {place} can't read what is written by the new schema (not forward compatible)",
}
_NEW_TOPIC = "give a new field a default, keep types; for a break that is meant use a new topic, or --accept NAME"


def feature_changes(
    project: Project, baseline: Baseline, consumers: Consumers | None = None, accepted: Collection[str] = ()
) -> Iterator[Finding]:
    """Features and views that are gone or of another type: each breaks whoever reads it.

    consumers: who reads what; None when that is not known, and every feature may be read by somebody.
    accepted: "view" or "view:feature" of changes that are meant: told as warnings. A view that is in no module is gone
    only when the modules are all there are.
    """
    before: dict[str, AnyView] = {**baseline.snapshot.views, **baseline.snapshot.batch_views}
    now: dict[str, AnyView] = {**project.resolved.views, **project.resolved.batch_views}
    # A view that is wrong was told of as such.
    defined = {*project.definitions.views, *project.definitions.batch_views}
    failed = any(finding.level == "failed" for finding in project.findings)
    for problem in baseline.snapshot.problems:
        yield Finding("features", "warning", baseline.place, f"not compared: {problem}")
    for name, old in sorted(before.items()):
        new = now.get(name)
        if new is not None:
            yield from _view_changes(old, new, consumers, accepted)
        elif name not in defined and project.whole and not failed:
            message = f"it is gone; it was in {baseline.place} with {len(old.features)} features"
            readers = [reader for f in old.features for reader in (consumers or {}).get(f"{name}:{f.name}", ())]
            yield _breaking("features", f"view {name}", message + _read_by(readers), _KEEP, name in accepted)


_KEEP = "keep it until nobody reads it; for a removal that is meant: --accept NAME"


def _view_changes(
    old: AnyView, new: AnyView, consumers: Consumers | None, accepted: Collection[str]
) -> Iterator[Finding]:
    subject = f"view {new.name}"
    found: list[Finding] = []
    keys_before = {key.name: key.dtype for key in old.join_keys}
    keys_now = {key.name: key.dtype for key in new.join_keys}
    if keys_before != keys_now:
        message = f"its join keys were {_listed(keys_before)} and are {_listed(keys_now)}"
        found.append(_breaking("features", subject, message, _KEEP, new.name in accepted))
    now = {feature.name: feature.output_dtype for feature in new.features}
    for feature in old.features:
        reference = f"{new.name}:{feature.name}"
        readers = _read_by((consumers or {}).get(reference, ()))
        meant = reference in accepted or new.name in accepted
        if feature.name not in now:
            found.append(_breaking("features", reference, f"it is gone{readers}", _KEEP, meant))
        elif now[feature.name] != feature.output_dtype:
            message = f"it was {feature.output_dtype} and is {now[feature.name]}{readers}"
            found.append(_breaking("features", reference, message, "give the new type a new name", meant))
    yield from found or [Finding("features", "ok", subject, "all features are there, with the same types")]


def _breaking(section: str, subject: str, message: str, hint: str, meant: bool) -> Finding:
    level: Level = "warning" if meant else "failed"
    return Finding(section, level, subject, f"{message}{' (accepted)' if meant else ''}", None if meant else hint)  # type: ignore[arg-type]


def _read_by(readers: Sequence[str]) -> str:
    return f"; read by {', '.join(sorted(set(readers)))}" if readers else ""


def _listed(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in keys.items())

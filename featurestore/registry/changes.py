"""How much a change asks of others: of those who read features, and of the stores that hold them.

compatible: nobody notices. re-aggregating: values change, or are computed from other events; a version of its own fills
beside the served one. breaking: a reader gets an error, nothing, or something of another type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.registry.plan import Change, FieldChange, Plan, Spec

Severity = Literal["compatible", "re-aggregating", "breaking"]
SEVERITIES: tuple[Severity, ...] = ("compatible", "re-aggregating", "breaking")
"""From the least to the worst."""
_TOLD = {"owner", "description", "tags", "criticality", "slo", "schema"}
_VERDICTS = {
    "max_out_of_orderness_us",
    "allowed_lateness_us",
    "max_future_us",
    "dedupe_by",
    "dedupe_within_us",
    "format",
}


@dataclass(frozen=True)
class Judgement:
    """The class of a change of one field, and why."""

    severity: Severity
    reason: str


@dataclass(frozen=True)
class JudgedChange:
    """A change of a plan. fields: judgements of its fields, in their order. severity: the worst of them."""

    change: Change
    fields: tuple[Judgement, ...]

    @property
    def severity(self) -> Severity:
        """The worst of the fields; of what is added, compatible."""
        return max((field.severity for field in self.fields), key=SEVERITIES.index, default="compatible")

    @property
    def breaking(self) -> tuple[str, ...]:
        """Why it breaks what is in use, each reason once."""
        return tuple(dict.fromkeys(field.reason for field in self.fields if field.severity == "breaking"))


def judge_changes(
    plan: Plan, in_use: Mapping[str, Sequence[str]], column_readers: Mapping[str, Sequence[str]]
) -> tuple[JudgedChange, ...]:
    """The changes of a plan with their classes.

    in_use: by "view:feature", who reads it. column_readers: by "source.column", deployed features that read it.
    """
    judged = []
    for change in plan.changes:
        key = (change.kind, change.name)
        fields: tuple[Judgement, ...] = ()
        if change.action == "change":
            before, after = plan.before[key][1], plan.specs[key]
            fields = tuple(_judge(field, before, after, in_use, column_readers) for field in change.fields)
        judged.append(JudgedChange(change, fields))
    return tuple(judged)


def _judge(
    field: FieldChange,
    before: Spec,
    after: Spec,
    in_use: Mapping[str, Sequence[str]],
    column_readers: Mapping[str, Sequence[str]],
) -> Judgement:
    head, _, rest = field.path.partition(".")
    if head in _TOLD:
        return Judgement("compatible", "it is told, nothing is computed from it")
    if isinstance(before, ViewSpec | BatchViewSpec) and isinstance(after, ViewSpec | BatchViewSpec):
        return _of_view(head, rest, before, after, in_use)
    if isinstance(before, SourceSpec) and isinstance(after, SourceSpec):
        return _of_source(head, rest, before, after, column_readers)
    if isinstance(before, FeatureServiceSpec) and isinstance(after, FeatureServiceSpec):
        return _of_service(rest, before, after)
    if head == "join_keys":
        return Judgement("breaking", f"the join keys of entity {before.name} change: requests of before do not fit")
    return Judgement("compatible", "nothing is computed from it")


def _of_view(
    head: str,
    rest: str,
    before: ViewSpec | BatchViewSpec,
    after: ViewSpec | BatchViewSpec,
    in_use: Mapping[str, Sequence[str]],
) -> Judgement:
    view = before.name
    if head == "entities":
        if before.join_keys != after.join_keys:
            return Judgement("breaking", f"the join keys of view {view} change: requests of before do not fit")
        if rest.rpartition(".")[2] in _TOLD or ".tags." in rest:
            return Judgement("compatible", "it is told, nothing is computed from it")
        return Judgement("re-aggregating", "requests fit as before, but another version is keyed by another entity")
    if head == "source" and isinstance(before, ViewSpec):
        return Judgement("breaking", f"view {view} reads another source: its values are of other events")
    if head == "derive" and rest == "order":
        return Judgement("compatible", "derived columns have no order")
    if head != "features":
        return Judgement("re-aggregating", "values are computed from other events, or kept otherwise")
    name, _, part = rest.partition(".")
    if name == "order":
        return Judgement("re-aggregating", "stored rows hold the features in their order")
    if part.startswith("metadata"):
        return Judgement("compatible", "it is told, nothing is computed from it")
    old = {feature.name: feature for feature in before.features}
    new = {feature.name: feature for feature in after.features}
    if name not in old:
        return Judgement("compatible", "a new feature: readers of the others notice nothing")
    users = ", ".join(in_use.get(f"{view}:{name}", ()))
    if name not in new:
        if users:
            return Judgement("breaking", f"feature {view}:{name} goes, which is in use: {users}")
        return Judgement("re-aggregating", "the feature goes; nobody is known to read it")
    if old[name].output_dtype != new[name].output_dtype:
        types = f"{old[name].output_dtype} to {new[name].output_dtype}"
        return Judgement("breaking", f"the type of feature {view}:{name} changes from {types}")
    return Judgement("re-aggregating", "the feature is computed otherwise")


def _of_source(
    head: str, rest: str, before: SourceSpec, after: SourceSpec, column_readers: Mapping[str, Sequence[str]]
) -> Judgement:
    if head == "topic":
        return Judgement("breaking", f"source {before.name} reads another topic: its offsets and archive do not fit")
    if head == "event_time":
        return Judgement("breaking", f"the event time of source {before.name} is another column: all windows move")
    if head in _VERDICTS:
        return Judgement("compatible", "it decides about messages from the next start of the worker on")
    if head != "columns":
        return Judgement("compatible", "nothing is computed from it")
    name, _, part = rest.partition(".")
    old = {column.name: column.dtype for column in before.columns}
    new = {column.name: column.dtype for column in after.columns}
    if name in old and name in new and part in ("unit", "default") and column_readers.get(f"{before.name}.{name}"):
        return Judgement("re-aggregating", f"column {before.name}.{name} is read otherwise: values change from now on")
    if name not in old or (name in new and old[name] == new[name]):
        return Judgement("compatible", "no feature reads it otherwise than before")
    readers = ", ".join(column_readers.get(f"{before.name}.{name}", ()))
    what = f"column {before.name}.{name} {'changes its type' if name in new else 'goes'}"
    if readers:
        return Judgement("breaking", f"{what}, which is read by {readers}")
    return Judgement("compatible", f"{what}; no feature reads it")


def _of_service(rest: str, before: FeatureServiceSpec, after: FeatureServiceSpec) -> Judgement:
    gone = sorted(set(before.references) - set(after.references))
    if gone:
        return Judgement("breaking", f"feature service {before.name} has {', '.join(gone)} no longer")
    if [one for one in after.references if one in before.references] != list(before.references):
        reason = f"feature service {before.name} has its features in another order: a model may take them by position"
        return Judgement("breaking", reason)
    if rest.endswith((".version", ".fingerprint")):
        return Judgement("re-aggregating", "the service reads another version of the view")
    return Judgement("compatible", "what the service had stays as it was")

"""What would become of a sample of a topic's events: dead letters by reason, null rates, order in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from featurestore.contracts.gather import Project
from featurestore.contracts.models import SourceContract
from featurestore.contracts.promises import broken_promises
from featurestore.contracts.report import Finding, failure
from featurestore.definitions.names import nearest
from featurestore.errors import ConfigError, FeatureStoreError
from featurestore.sources.event_file import EventFile, read_event_file


def check_samples(project: Project, samples: Sequence[str], contracts: Sequence[SourceContract]) -> Iterator[Finding]:
    """samples: "FILE", or "SOURCE=FILE" where the modules have several sources. contracts: of sources."""
    by_source = {contract.source: contract for contract in contracts}
    for sample in samples:
        try:
            name, path = _source_and_path(project, sample)
            source = project.resolved.sources.get(name)
            if source is None:
                yield Finding("samples", "skipped", str(path), f"source '{name}' has errors, see definitions")
                continue
            events = read_event_file(source, project.directory, path)
        except FeatureStoreError as error:
            yield failure("samples", sample, error)
            continue
        contract = by_source.get(name) or SourceContract(source=name)
        yield from _judged(f"{path} ({name})", events, contract)


def _source_and_path(project: Project, sample: str) -> tuple[str, Path]:
    known = sorted(project.definitions.sources)
    name, equals, path = sample.partition("=")
    if equals and name in known:
        return name, Path(path)
    if not equals and len(known) == 1:
        return known[0], Path(sample)
    if equals and not Path(sample).exists():
        raise ConfigError(f"no module defines a source '{name}'", hint=nearest(name, known))
    raise ConfigError(f"which source's events are in {sample}?", hint=f"--sample SOURCE=FILE; {nearest('', known)}")


def _judged(subject: str, events: EventFile, contract: SourceContract) -> Iterator[Finding]:
    if not events.messages:
        yield Finding("samples", "failed", subject, "it has no event")
        return
    dead = sum(events.dead.values())
    for reason, number in events.dead.items():
        place, error = events.first_dead[reason]
        share = number / events.messages
        message = (
            f"{number:,} of {events.messages:,} ({share:.2%}) are dead letters, {reason}; number {place + 1}: {error}"
        )
        within = dead / events.messages <= contract.max_dead_letter_rate
        yield Finding("samples", "warning" if within else "failed", subject, message)
    if events.late:
        share = events.late / events.messages
        limit = contract.max_late_rate
        message = f"{events.late:,} of {events.messages:,} ({share:.2%}) are too late in the order of the file"
        too_many = limit is not None and share > limit
        if too_many:
            message += f", promised are at most {limit:.2%}"
        hint = "raise max_out_of_orderness or allowed_lateness, or order the sample as the topic is"
        yield Finding("samples", "failed" if too_many else "warning", subject, message, hint)
    accepted = events.accepted
    for name, promised in contract.columns.items():
        for broken in broken_promises(promised, accepted[name]) if name in accepted.columns else ():
            yield Finding("samples", "failed", f"{subject}, column {name}", broken)
    nulls = [
        f"{name} {accepted[name].null_count() / accepted.height:.2%}"
        for name in accepted.columns
        if accepted[name].null_count()
    ]
    told = f"{accepted.height:,} of {events.messages:,} are accepted, {events.out_of_order:,} of them out of order"
    yield Finding("samples", "ok", subject, told + (f"; null: {', '.join(nulls)}" if nulls else "; no nulls"))

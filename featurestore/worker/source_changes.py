"""At the start of a run: which earlier definitions of its source decide about messages that are read again."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import structlog

from featurestore.definitions.specs import SourceSpec
from featurestore.registry.source_changes import SourceChanges
from featurestore.shard.protocol import Fence
from featurestore.sources.epochs import EarlierSource, same_verdicts

log = structlog.get_logger()


def settle_source_changes(
    changes: SourceChanges,
    spec: SourceSpec,
    generation: str,
    resume: Mapping[int, Fence],
    decided: Mapping[int, int],
) -> tuple[EarlierSource, ...]:
    """Earlier definitions that decide about messages from `resume` on, the oldest first.

    decided: by partition, the first offset that nobody has decided about; a definition that is new decides from there
    on, which is written down before anything is read by it. The caller holds the source's lock.
    """
    known = changes.of(spec.name, generation)
    if not known:
        changes.add(spec, generation, {})
    elif not same_verdicts(known[-1].spec, spec):
        changes.add(spec, generation, decided)
        log.info("source_changed", source=spec.name, from_offsets={str(p): offset for p, offset in decided.items()})
        known = changes.of(spec.name, generation)
    earlier = [EarlierSource(before.spec, dict(after.offsets)) for before, after in pairwise(known)]
    return tuple(
        one for one in earlier if any(resume[p].next_offset < end for p, end in one.until.items() if p in resume)
    )

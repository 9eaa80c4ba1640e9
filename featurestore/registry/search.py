"""Searching what is deployed, by words.

Every word must be found in an entry; case does not count. A word scores by the best place in which it stands, and an
entry by the sum over its words; equals are ordered by name.

    name of the entry           20 whole, 10 as a part between "_" (sum in amount_sum_1h), 8 its beginning, 6 within
    name of its view            4 for a feature, whole or within
    columns that it reads       5 whole, 2 within
    tags, owner                 4 whole (a tag's name, its value or name=value; the owner), 2 within
    description                 3 as a word, 1 within

For a word that is found nowhere `nearest_words` tells the nearest names, parts of names and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from featurestore.definitions.specs import ViewSpec
from featurestore.registry.discovery import Definition, Feature, columns_read

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[_/]")


@dataclass(frozen=True)
class Found:
    """An entry that has all the words. kind: as of definitions, or "feature"; name: "view:feature" for one."""

    kind: str
    name: str
    owner: str
    description: str
    score: int


@dataclass(frozen=True)
class _Entry:
    """What is searched of an entry. own: its name without its view's; columns, labels: in lower case."""

    kind: str
    name: str
    own: str
    view: str
    columns: frozenset[str]
    labels: frozenset[str]
    owner: str
    description: str

    def score(self, word: str) -> int:
        own = self.own.lower()
        if word in (own, own.rpartition("/")[2], self.name.lower()):
            return 20
        if word in _PART.split(own):
            return 10
        if word in own:
            return 8 if own.startswith(word) else 6
        return max(
            _within(word, self.columns, 5),
            _within(word, self.labels, 4),
            4 if word in self.view.lower() else 0,
            self._described(word),
        )

    def _described(self, word: str) -> int:
        text = self.description.lower()
        if word not in text:
            return 0
        return 3 if word in _WORD.findall(text) else 1


def search(definitions: Iterable[Definition], words: Sequence[str]) -> list[Found]:
    """Entries that have every word, the best first."""
    asked = [word.lower() for text in words for word in text.split()]
    found = []
    for entry in _entries(definitions):
        scores = []
        for word in asked:
            scores.append(entry.score(word))
            if not scores[-1]:
                break
        if scores and all(scores):
            found.append(Found(entry.kind, entry.name, entry.owner, entry.description, sum(scores)))
    return sorted(found, key=lambda one: (-one.score, one.name, one.kind))


def nearest_words(definitions: Iterable[Definition], words: Sequence[str]) -> list[str]:
    """Names, parts of them, and columns that are like words which are found nowhere."""
    entries = list(_entries(definitions))
    parts = {part.lower() for entry in entries for part in (*entry.own.split("_"), entry.own, *entry.columns)}
    asked = [word.lower() for text in words for word in text.split()]
    unknown = [word for word in asked if not any(entry.score(word) for entry in entries)]
    return [near for word in unknown for near in get_close_matches(word, parts, n=3, cutoff=0.7)]


def _entries(definitions: Iterable[Definition]) -> Iterable[_Entry]:
    for definition in definitions:
        spec = definition.spec
        labels = frozenset(
            text.lower() for name, value in spec.tags.items() for text in (name, value, f"{name}={value}")
        ) | ({spec.owner.lower()} if spec.owner else set())
        columns = frozenset(column.lower() for column in columns_read(spec))
        yield _Entry(definition.kind, spec.name, spec.name, "", columns, labels, spec.owner, spec.description)
        for feature in definition.features:
            yield _feature_entry(feature, labels)


def _feature_entry(feature: Feature, labels: frozenset[str]) -> _Entry:
    spec, view = feature.spec, feature.view
    column = getattr(spec, "column", None)
    columns = frozenset(_columns(view, column)) if isinstance(view, ViewSpec) else frozenset({spec.name.lower()})
    return _Entry(
        "feature", feature.reference, spec.name, view.name, columns, labels, view.owner, spec.metadata.description
    )


def _columns(view: ViewSpec, column: str | None) -> Iterable[str]:
    """Of the feature's value: its column, and what that is derived from."""
    from featurestore.registry.lineage import columns_of

    if column is None:
        return
    yield column.lower()
    for name, text in view.derive:
        if name == column:
            yield from (one.lower() for one in columns_of(text))


def _within(word: str, texts: frozenset[str], whole: int) -> int:
    if word in texts:
        return whole
    return 2 if any(word in text for text in texts) else 0

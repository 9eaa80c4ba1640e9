"""What a training set was made of: enough to make it again, bit for bit, when the archive has grown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import msgspec

from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, JoinKeySpec, ViewSpec
from featurestore.errors import MalformedRequestError
from featurestore.training.archive import ArchiveMark
from featurestore.training.history import Knowledge
from featurestore.training.spine import Spine

FORMAT_VERSION = 1


class SpineMark(msgspec.Struct, frozen=True):
    """A spine's rows, and SHA-256 of its instants and join keys in their order, hexadecimal."""

    rows: int
    sha256: str


class ViewMark(msgspec.Struct, frozen=True):
    """A view as it was. fingerprint: of what it computes; groups: into how many its entities were divided."""

    name: str
    version: int
    fingerprint: str
    groups: int
    definition: ViewSpec


class BatchViewMark(msgspec.Struct, frozen=True):
    """A batch view as it was. files: names of those that its rows were read from."""

    name: str
    version: int
    fingerprint: str
    files: tuple[str, ...]
    definition: BatchViewSpec


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A training set's ingredients. archive: by source, how far it was read; knowledge_time: ISO 8601 UTC or None.

    feature_service: the one that the features are of, with the versions that it pinned.
    """

    format_version: int = FORMAT_VERSION
    library_version: str
    created_at: str
    features: tuple[str, ...]
    full_feature_names: bool
    event_timestamp: str
    knowledge: Knowledge
    knowledge_time: str | None
    spine: SpineMark
    views: tuple[ViewMark, ...]
    archive: Mapping[str, tuple[ArchiveMark, ...]]
    batch_views: tuple[BatchViewMark, ...] = ()
    feature_service: FeatureServiceSpec | None = None

    @property
    def groups(self) -> dict[str, int]:
        """By view, into how many groups its entities were divided: sums are in that order."""
        return {view.name: view.groups for view in self.views}

    @property
    def columns(self) -> dict[str, str]:
        """By feature, the name of its column."""
        return {
            feature: feature.replace(":", "__") if self.full_feature_names else feature.partition(":")[2]
            for feature in self.features
        }

    @property
    def join_keys(self) -> dict[str, JoinKeySpec]:
        """By name, those that the spine has columns of."""
        keys = [
            *(view.definition.join_keys for view in self.views),
            *(v.definition.join_keys for v in self.batch_views),
        ]
        return {key.name: key for own in keys for key in own}


def library_version() -> str:
    """The installed version of featurestore."""
    return version("featurestore")


def created_now() -> str:
    """The wall clock, ISO 8601 in UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def mark_of(spine: Spine) -> SpineMark:
    """What identifies a spine: its instants and join keys. Its other columns don't matter to features."""
    digest = hashlib.sha256(spine.as_of.to_numpy().astype("<i8").tobytes())
    for column in spine.keys:
        digest.update(f"\0{column.name}\0{column.dtype}\0".encode())
        texts = ("\1" if text is None else f"\2{text}" for text in column.cast(str).to_list())
        digest.update("\0".join(texts).encode())
    return SpineMark(spine.frame.height, digest.hexdigest())


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises MalformedRequestError when it is not there or can't be understood."""
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise MalformedRequestError(f"manifest {path} can't be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise MalformedRequestError(f"manifest {path} can't be understood: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise MalformedRequestError(
            f"manifest {path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}"
        )
    return manifest


def check_same(manifest: Manifest, spine: Spine, fingerprints: Mapping[str, tuple[int, str]]) -> None:
    """Raise MalformedRequestError unless the spine and the views are those of the manifest.

    fingerprints: by view, version and fingerprint as they are applied now.
    """
    if mark_of(spine) != manifest.spine:
        raise MalformedRequestError(
            f"the spine is not the one of the manifest: {spine.frame.height} rows, the manifest's had "
            f"{manifest.spine.rows}, or other instants and keys, or another order",
            hint="give the same spine, in the same order",
        )
    views: tuple[ViewMark | BatchViewMark, ...] = (*manifest.views, *manifest.batch_views)
    for view in views:
        if fingerprints.get(view.name, (0, ""))[1] != view.fingerprint:
            now = f"version {fingerprints[view.name][0]}" if view.name in fingerprints else "nothing"
            raise MalformedRequestError(
                f"view '{view.name}' computes something else by now: {now} is applied, the manifest has version "
                f"{view.version}",
                hint="check out the definitions of that time and apply them to a registry of their own",
            )


def encoded(manifest: Manifest) -> bytes:
    """As JSON for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def view_of(feature: str) -> str:
    """The view's name in "view:feature" or "view@2:feature"."""
    return feature.partition(":")[0].partition("@")[0]


def view_names(features: Sequence[str]) -> tuple[str, ...]:
    """The views of features "view:feature" or "view@2:feature", as they are named there, each once, in their order.

    Raises MalformedRequestError, also for two versions of one view.
    """
    for feature in features:
        view, colon, name = feature.partition(":")
        if not (view and colon and name):
            raise MalformedRequestError(f"'{feature}' is no feature", hint="write it view:feature")
    if not features:
        raise MalformedRequestError("no features are asked for", hint="name them, each as view:feature")
    names = tuple(dict.fromkeys(feature.partition(":")[0] for feature in features))
    plain = [name.partition("@")[0] for name in names]
    twice = [name for name in plain if plain.count(name) > 1]
    if twice:
        raise MalformedRequestError(
            f"two versions of view '{twice[0]}' are asked for", hint="make a training set of each, with the same spine"
        )
    return names

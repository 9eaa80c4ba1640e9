"""What definitions are compared with: those that are applied in the registry, or those of a git revision."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from featurestore.contracts.compatibility import TopicSchema, avro_record
from featurestore.contracts.gather import gather
from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import BatchViewSpec, SourceSpec, ViewSpec
from featurestore.errors import ConfigError, NoRegistryError
from featurestore.registry import Registry

REGISTRY = "registry"
GIT_TIMEOUT_S = 60
CHILD_TIMEOUT_S = 120


class Snapshot(msgspec.Struct, frozen=True):
    """Definitions as they were. schemas: by source, the text of its schema file; none from the registry.

    problems: what could not be understood of it.
    """

    sources: dict[str, SourceSpec]
    views: dict[str, ViewSpec]
    batch_views: dict[str, BatchViewSpec]
    schemas: dict[str, str] = {}
    problems: list[str] = []


@dataclass(frozen=True)
class Baseline:
    """A snapshot and where it is from, in words."""

    place: str
    snapshot: Snapshot
    from_files: bool = field(default=False)

    def schema(self, name: str) -> TopicSchema | None:
        """The schema that a source had; None when it was not there."""
        source = self.snapshot.sources.get(name)
        if source is None:
            return None
        return topic_schema(source, self.snapshot.schemas.get(name) if self.from_files else None)


def topic_schema(source: SourceSpec, text: str | None) -> TopicSchema:
    """A source's schema. text: of its file; None to make the Avro record from the columns."""
    if source.format == "json":
        return TopicSchema(source.columns)
    record: Mapping[str, Any] = avro_record(source.columns) if text is None else json.loads(text)
    return TopicSchema(source.columns, record)


def from_registry(place: Path | str) -> Baseline:
    """What is applied. Raises RegistryError when there is no registry."""
    registry = Registry.open(place, create=False)
    try:
        views = {view.spec.name: view.spec for view in registry.views()}
        batch_views = {view.spec.name: view.spec for view in registry.batch_views()}
        sources = {name: registry.source(name) for name in sorted({view.source for view in views.values()})}
    finally:
        registry.close()
    return Baseline("what is applied", Snapshot(sources, views, batch_views))


def from_git(revision: str, modules: Sequence[str], directory: Path) -> Baseline:
    """The definitions of a revision, imported in a process of their own from an export of the project's folder.

    Raises ConfigError when git knows no such revision, or the definitions of then can't be read at all.
    """
    with tempfile.TemporaryDirectory(prefix="featurestore-check-") as temporary:
        folder, answer = Path(temporary) / "then", Path(temporary) / "snapshot.json"
        # Below the top of the repository, git archives this folder alone, with paths from here.
        archive = _git(["archive", "--format=zip", revision], directory, revision)
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(folder)
        # A module that was not there then has nothing to be compared with.
        then = [module for module in modules if _there(module, folder)]
        if modules and not then:
            return Baseline(f"git {revision}", Snapshot({}, {}, {}), from_files=True)
        # Not in that folder: what it holds could hide this library.
        command = [sys.executable, "-m", "featurestore.contracts.baseline", str(folder), str(answer), *then]
        done = subprocess.run(command, cwd=directory, capture_output=True, timeout=CHILD_TIMEOUT_S, check=False)
        if done.returncode:
            raise ConfigError(
                f"the definitions of {revision} can't be read: {done.stderr.decode(errors='replace')[-2000:]}",
                hint="compare with another revision",
            )
        return Baseline(f"git {revision}", msgspec.json.decode(answer.read_bytes(), type=Snapshot), from_files=True)


def take_snapshot(resolved: ResolvedDefinitions, directory: Path, problems: list[str]) -> Snapshot:
    """Definitions of now with their schema files."""
    schemas = {
        name: (directory / source.schema).read_text(encoding="utf-8") for name, source in resolved.sources.items()
    }
    return Snapshot(
        dict(resolved.sources), dict(resolved.views), dict(resolved.batch_views), schemas=schemas, problems=problems
    )


def find_baseline(
    against: str | None, registry: Path | str, modules: Sequence[str], directory: Path
) -> Baseline | None:
    """What was asked for; without a wish the registry, or None when there is none."""
    if against is None or against == REGISTRY:
        try:
            return from_registry(registry)
        except NoRegistryError:
            if against is None:
                return None
            raise
    return from_git(against, modules, directory)


def _there(module: str, directory: Path) -> bool:
    path = directory / module if module.endswith(".py") or "/" in module else directory / (module.replace(".", "/"))
    return path.exists() or path.with_suffix(".py").exists()


def _git(arguments: list[str], directory: Path, revision: str) -> bytes:
    if revision.startswith("-"):
        raise ConfigError(f"{revision!r} is no git revision", hint="like origin/main, HEAD~1 or a tag")
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed", hint="--against registry needs none") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(
            f"git can't give revision '{revision}': {said}",
            hint="in CI fetch it first: actions/checkout with fetch-depth: 0",
        )
    return done.stdout


def _main(directory: Path, answer: Path, modules: Sequence[str]) -> None:
    project = gather(modules, directory)
    problems = [f"{f.subject}: {f.message}" for f in project.findings if f.level == "failed"]
    # Not to stdout: an author's module may print.
    answer.write_bytes(msgspec.json.encode(take_snapshot(project.resolved, directory, problems)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

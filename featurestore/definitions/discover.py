"""Find definitions: module-level objects of the pipeline modules, by importing them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from featurestore.definitions.batch import BatchFeatureView
from featurestore.definitions.entity import Entity
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import KafkaSource
from featurestore.definitions.view import StreamFeatureView
from featurestore.errors import DefinitionError, FeatureStoreError, NoViewError

Defined = TypeVar("Defined", Entity, KafkaSource, StreamFeatureView, BatchFeatureView, FeatureService)


@dataclass(frozen=True)
class Definitions:
    """Definitions by name."""

    entities: dict[str, Entity] = field(default_factory=dict)
    sources: dict[str, KafkaSource] = field(default_factory=dict)
    views: dict[str, StreamFeatureView] = field(default_factory=dict)
    batch_views: dict[str, BatchFeatureView] = field(default_factory=dict)
    feature_services: dict[str, FeatureService] = field(default_factory=dict)


def load_definitions(modules: Sequence[str], base_dir: Path) -> Definitions:
    """Import pipeline modules and gather what they define, with the views of their services, and the sources and
    entities of their views.

    modules: dotted names or paths of .py files, importable from base_dir. Raises DefinitionError when a
    module can't be imported, defines no view, or two definitions share a name.
    """
    found = Definitions()
    for name in modules:
        module = _import(name, base_dir)
        views = [value for value in vars(module).values() if isinstance(value, StreamFeatureView)]
        batch_views = [value for value in vars(module).values() if isinstance(value, BatchFeatureView)]
        services = [value for value in vars(module).values() if isinstance(value, FeatureService)]
        for service in services:
            _add(found.feature_services, service, "feature service", name)
            views += [part.view for part in service.selections if isinstance(part.view, StreamFeatureView)]
            batch_views += [part.view for part in service.selections if isinstance(part.view, BatchFeatureView)]
        if not views and not batch_views:
            _check_is_the_file(module, name, base_dir)
            raise NoViewError(
                f"module {name} defines no feature view",
                hint="assign a StreamFeatureView or BatchFeatureView to a module-level name",
            )
        for view in views:
            _add(found.views, view, "view", name)
            _add(found.sources, view.source, "source", name)
            for entity in view.entities:
                _add(found.entities, entity, "entity", name)
        for batch_view in batch_views:
            _add(found.batch_views, batch_view, "view", name)
            for entity in batch_view.entities:
                _add(found.entities, entity, "entity", name)
        for shared in found.views.keys() & found.batch_views.keys():
            raise DefinitionError(
                f"module {name}: view '{shared}' is defined twice, as a stream view and as a batch view",
                hint="give each a name of its own",
            )
    return found


def _add(known: dict[str, Defined], value: Defined, kind: str, module: str) -> None:
    other = known.setdefault(value.name, value)
    if other is not value and (
        isinstance(value, StreamFeatureView | BatchFeatureView | FeatureService) or other != value
    ):
        raise DefinitionError(
            f"module {module}: {kind} '{value.name}' is defined twice, differently",
            hint="give each a name of its own",
        )


def _check_is_the_file(module: ModuleType, name: str, base_dir: Path) -> None:
    """Raise DefinitionError when importing the file `name` gave another module: a json.py gives Python's own."""
    if not name.endswith(".py"):
        return
    if module.__file__ is None or Path(module.__file__).resolve() != (base_dir / name).resolve():
        raise DefinitionError(
            f"module {name}: importing '{module.__name__}' gives another module, {module.__file__ or 'a folder'}",
            hint="rename the file, or put it into a folder like pipelines/",
        )


def _import(name: str, base_dir: Path) -> ModuleType:
    dotted = name
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        path = path if path.is_absolute() else base_dir / path
        if not path.exists():
            raise DefinitionError(f"module {name} does not exist", hint=f"looked for {path}")
        try:
            dotted = ".".join(path.resolve().relative_to(base_dir.resolve()).with_suffix("").parts)
        except ValueError as error:
            raise DefinitionError(
                f"module {name} is outside {base_dir}", hint="run from the project's folder"
            ) from error
    folder = str(base_dir.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(dotted)
    except FeatureStoreError as error:
        line = _line_in(error, dotted)
        raise DefinitionError(f"module {name}{line}: {error.message}", hint=error.hint) from error
    except ModuleNotFoundError as error:
        if error.name is not None and (dotted == error.name or dotted.startswith(f"{error.name}.")):
            raise DefinitionError(
                f"module {name} can't be found from {base_dir}",
                hint="name it like pipelines.payments or pipelines/payments.py",
            ) from error
        line = _line_in(error, dotted)
        raise DefinitionError(f"module {name}{line} imports {error.name}, which is not installed") from error
    except Exception as error:
        line = _line_in(error, dotted)
        raise DefinitionError(f"module {name}{line}: {type(error).__name__}: {error}") from error


def _line_in(error: Exception, dotted: str) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == dotted:
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return line

"""Reads contract files; errors name the file and the line."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from featurestore.contracts.models import Contract, SourceContract, ViewContract
from featurestore.definitions.names import nearest
from featurestore.errors import ContractError, FeatureStoreError

CONTRACTS = "contracts"
"""The folder of a project's contracts."""

_KINDS: dict[str, type[ViewContract] | type[SourceContract]] = {"view": ViewContract, "source": SourceContract}


@dataclass(frozen=True)
class LoadedContract:
    """A contract, the file that it is in, and that file's name for messages."""

    contract: Contract
    path: Path
    shown_as: str


def contract_files(directory: Path) -> list[Path]:
    """The contract files of a project."""
    folder = directory / CONTRACTS
    return sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml", ".py"))


def load_contracts(path: Path, shown_as: str) -> list[LoadedContract]:
    """The contracts of one file. Raises ContractError."""
    found = list(_python(path, shown_as) if path.suffix == ".py" else _yaml(path, shown_as))
    if not found:
        raise ContractError(f"{shown_as} has no contract", hint="begin with `view: NAME` or `source: NAME`")
    return [LoadedContract(contract, path, shown_as) for contract in found]


def _python(path: Path, shown_as: str) -> Iterator[Contract]:
    try:
        names = runpy.run_path(str(path))
    except FeatureStoreError:
        raise
    except Exception as error:
        raise ContractError(f"{shown_as}: {type(error).__name__}: {error}") from error
    for value in names.values():
        if isinstance(value, ViewContract | SourceContract):
            yield value


def _yaml(path: Path, shown_as: str) -> Iterator[Contract]:
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        while loader.check_node():
            node = loader.get_node()
            _refuse_twins(node, shown_as)
            yield _contract(node, loader.construct_document(node), shown_as)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ContractError(f"{shown_as}{line}: no YAML: {error.problem or error.context}") from error
    except (OSError, ValueError) as error:
        raise ContractError(f"{shown_as} can't be read: {error}") from error


def _contract(node: yaml.Node, data: Any, shown_as: str) -> Contract:
    kinds = [kind for kind in _KINDS if isinstance(data, dict) and kind in data]
    if len(kinds) != 1:
        raise ContractError(
            f"{shown_as}, line {node.start_mark.line + 1}: a contract is of one view or of one source",
            hint="begin it with `view: NAME` or `source: NAME`, contracts of one file with --- between them",
        )
    kind = _KINDS[kinds[0]]
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or kinds[0]
        line = _line(node, first["loc"])
        hint = None
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), _fields(kind, first["loc"][:-1]))
        what = "there is no such key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ContractError(f"{shown_as}, line {line}: {place}: {what}", hint=hint) from error


def _refuse_twins(node: yaml.Node, shown_as: str) -> None:
    """YAML's reader would silently take the last of two keys."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ContractError(f"{shown_as}, line {key.start_mark.line + 1}: '{key.value}' is there twice")
            seen.add(key.value)
            _refuse_twins(value, shown_as)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(item, shown_as)


def _line(node: yaml.Node, place: Sequence[int | str]) -> int:
    """The line of the deepest part of `place` that the file has."""
    line: int = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _fields(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The keys that the model at this place has."""
    if not place:
        return list(kind.model_fields)
    names = {"features": "FeatureContract", "examples": "Example", "columns": "ColumnContract"}
    from featurestore.contracts import models

    inner = getattr(models, names.get(str(place[0]), ""), None)
    return list(inner.model_fields) if inner is not None else []

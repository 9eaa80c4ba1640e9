"""The rules of the house as functions from source text to complaints, so that each can be shown to fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "featurestore"

# What each room may import of ours; BASE is free for every room below the base itself.
BASE = frozenset({"errors", "durations", "batches", "config", "namespaces", "observability"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "durations": frozenset({"errors"}),
    "batches": frozenset(),
    "namespaces": frozenset(),
    "config": frozenset({"errors", "durations"}),
    "observability": frozenset({"errors", "batches"}),  # batches: the type of what a poll gave
    "definitions": BASE,
    "compute": frozenset({"errors", "durations", "batches"}),
    "compile": BASE | {"definitions", "compute"},
    "registry": BASE | {"definitions", "compile"},
    "sources": BASE | {"definitions", "compile"},
    "shard": BASE | {"definitions", "compute", "compile"},
    "online": BASE | {"definitions", "compute", "compile", "shard"},  # shard: the protocol that the store carries out
    "offline": BASE | {"definitions", "compile"},
    # registry: jobs, and the graph of specs; offline: where datasets lie
    "lineage_events": BASE | {"definitions", "registry", "offline"},
    "worker": BASE | {"definitions", "compile", "registry", "sources", "shard", "online", "offline", "lineage_events"},
    # batch stores are known by their names; what is rebuilt is rebuilt by the worker's own way
    "recovery": BASE | {"definitions", "compile", "registry", "shard", "online", "offline", "worker"},
    "batch": BASE | {"definitions", "compile", "online", "offline"},  # sources of rows, and both stores
    "training": BASE | {"definitions", "compute", "compile", "registry", "offline", "batch"},
    "serving": BASE | {"definitions", "compute", "compile", "registry", "online"},
    "client": frozenset({"errors"}),  # it raises the same errors; they import nothing
    # training, feature_store: its check of a store's own features
    "testing": BASE | {"definitions", "compute", "compile", "shard", "sources", "training", "feature_store"},
    "contracts": BASE | {"definitions", "compute", "compile", "registry", "sources", "offline", "training", "batch"},
    "feature_store": BASE | {"definitions", "compile", "registry", "offline", "training"},  # the door in Python
    # An adapter to a tool of the user's: it asks the doors that users have, and nothing of ours imports it.
    "integrations": BASE | {"definitions", "registry", "training", "feature_store"},
    "examples": frozenset({"errors", "durations", "sources"}),  # sources: writes Avro as a producer does
    "__init__": frozenset({"errors", "definitions", "feature_store"}),  # what a pipeline's author writes, and that door
    "__main__": frozenset({"cli"}),
}
MAY_IMPORT["cli"] = (frozenset(MAY_IMPORT) - {"testing", "integrations", "__main__"}) | {"__init__"}

# A library and the rooms it is kept to.
KEPT_TO: dict[str, frozenset[str]] = {
    "confluent_kafka": frozenset({"sources"}),
    "fastavro": frozenset({"sources", "definitions"}),  # definitions: reads a schema file
    "openlineage": frozenset({"lineage_events"}),
    "rocksdict": frozenset({"online"}),
    "pyarrow.parquet": frozenset({"offline", "training", "batch"}),
    "bytewax": frozenset({"worker"}),
    "pyiceberg": frozenset({"offline"}),
    "sqlalchemy": frozenset({"registry", "batch"}),
    "starlette": frozenset({"serving"}),
    "uvicorn": frozenset({"serving"}),
    "httpx": frozenset({"client", "sources"}),  # sources: asks a schema registry
    "typer": frozenset({"cli"}),
    "rich": frozenset({"cli"}),
    "avro": frozenset({"contracts"}),
    "yaml": frozenset({"contracts"}),
    "pydantic": frozenset({"config", "contracts"}),
    "pydantic_settings": frozenset({"config"}),
    "prometheus_client": frozenset({"observability"}),
    "mlflow": frozenset({"integrations"}),
    "hypothesis": frozenset({"testing"}),
}

MOST_LINES = {"featurestore": 400, "pipelines": 400, "tests": 600}
# Longer files, each with the reason why a split would be worse.
LONG_FILES: dict[str, str] = {}

# Spelled apart, so that this file does not break its own rule.
_FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(r"(?<![\w./-])/(?:root|home/\w+|Users/\w+|work)/" + r"[\w.]"),
    "a package index": re.compile(r"(?:files\.)?(?:python" + r"hosted|pypi)\.org(?!/project)|/simple/?\b(?=\s|$)"),
}

_LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
_EVENT_NAME = re.compile(r"[a-z][a-z0-9_]*")


def python_files(*folders: str) -> list[Path]:
    """Python files under folders of the checkout, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def too_long(name: str, text: str) -> bool:
    """Whether a file, named from the root of the checkout, has more lines than its folder allows."""
    return len(text.splitlines()) > MOST_LINES[name.split("/")[0]]


def room_of(path: Path) -> str:
    """The room of a file of the package: its folder, or its own name at the top."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def forbidden_arrows(room: str, source: str) -> list[str]:
    """Imports of ours that `room` may not make, as "line: module"."""
    allowed = MAY_IMPORT.get(room)
    if allowed is None:
        return [f"0: room '{room}' is not in the table MAY_IMPORT of tests/house/rules.py"]
    complaints = []
    for line, module in imported_modules(source):
        parts = module.split(".")
        if parts[0] == PACKAGE:
            target = parts[1] if len(parts) > 1 else "__init__"
            if target != room and target not in allowed:
                complaints.append(f"{line}: {module}")
    return complaints


def strayed_libraries(room: str, source: str) -> list[str]:
    """Imports of libraries that are kept to other rooms, as "line: module"."""
    return [
        f"{line}: {module} belongs to {', '.join(sorted(rooms))}"
        for line, module in imported_modules(source)
        for library, rooms in KEPT_TO.items()
        if (module == library or module.startswith(f"{library}.")) and room not in rooms
    ]


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, wherever it stands; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == PACKAGE:
                # `from featurestore import registry` names a room; `import Entity` the package itself.
                for alias in node.names:
                    is_room = alias.name in MAY_IMPORT
                    yield node.lineno, f"{PACKAGE}.{alias.name}" if is_room else PACKAGE
            elif node.module == "pyarrow":
                for alias in node.names:
                    yield node.lineno, f"pyarrow.{alias.name}"
            else:
                yield node.lineno, node.module


def missing_docstrings(source: str) -> list[str]:
    """Public modules, classes, functions and methods without a docstring, as "line: name".

    Members of a private class, overrides and properties need none of their own.
    """
    tree = ast.parse(source)
    complaints = [] if not tree.body or ast.get_docstring(tree) else ["1: module"]

    def visit(body: list[ast.stmt], prefix: str, bases: bool) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            inherited = bases and not isinstance(node, ast.ClassDef)
            if not ast.get_docstring(node) and not inherited and not _needs_none(node):
                complaints.append(f"{node.lineno}: {prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.", bool(node.bases))

    visit(tree.body, "", False)
    return complaints


def _needs_none(node: ast.stmt) -> bool:
    decorators = getattr(node, "decorator_list", [])
    plain = {"overload", "setter", "property", "cached_property"}
    return any(ast.unparse(decorator).split(".")[-1] in plain for decorator in decorators)


def interpolated_events(source: str) -> list[str]:
    """Log calls whose event is no plain snake_case name, as "line: text"."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        target = node.func.value
        if node.func.attr in _LOG_METHODS and isinstance(target, ast.Name) and target.id in ("log", "logger", "_log"):
            event = node.args[0]
            choices = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
            if not all(_is_event_name(choice) for choice in choices):
                complaints.append(f"{node.lineno}: {ast.unparse(event)}")
    return complaints


def _is_event_name(node: ast.expr) -> bool:
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and _EVENT_NAME.fullmatch(text) is not None


def forbidden_text(text: str) -> list[str]:
    """Paths of one machine and hosts of package indexes, as "line: what"."""
    return [
        f"{number}: {what}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in _FORBIDDEN_TEXT.items()
        if pattern.search(line)
    ]

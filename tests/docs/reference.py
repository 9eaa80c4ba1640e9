"""The reference pages, made from the code: `python -m tests.docs.reference` writes them, a test compares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from featurestore.cli.app import app
from featurestore.config import Settings
from featurestore.observability import TABLE
from tests.docs.pages import ROOT

FOLDER = ROOT / "docs"


METRICS_HEAD = """# Metrics

Workers serve them at `http://HOST:9464/metrics` (`[worker] metrics_port`; process i at + i), the server at `/metrics`
of its own port. Times are in seconds, counters end in `_total`, histograms have `_bucket`, `_sum` and `_count`. Labels
are names of definitions, partitions and reasons, never an entity's key.

| metric | kind | labels | tells |
|---|---|---|---|
"""

CLI_HEAD = """# Commands

`featurestore COMMAND --help` says the same. Tables are for people, `--json` for programs; errors go to stderr and make
the exit code 1, a wrong option makes it 2.

"""


def metrics_page() -> str:
    """Every metric, as declared in the table of `observability.py`."""
    rows = []
    for name, declared in TABLE.items():
        kind = declared.kind.__name__.lower()
        rows.append(f"| `featurestore_{name}` | {kind} | {_names(declared.labels)} | {_cell(declared.help)} |\n")
    return METRICS_HEAD + "".join(rows)


def cli_page() -> str:
    """Every command: what it does, its arguments and options, its examples."""
    lines: list[str] = []
    for path, command in _commands(typer.main.get_command(app), ("featurestore",)):
        lines += _command(path, command)
    return CLI_HEAD + "\n".join(lines)


def configuration_page() -> str:
    """docs/configuration.md with a table of every section of the settings in its place."""

    def fill(place: re.Match[str]) -> str:
        return f"{place[1]}\n{_settings_table(place[2])}{place[3]}"

    text = (ROOT / "docs" / "configuration.md").read_text()
    return re.sub(r"(<!-- settings of \[(\w+)\] -->)\n.*?(<!-- end -->)", fill, text, flags=re.DOTALL)


PAGES = {
    "reference/metrics.md": metrics_page,
    "reference/cli.md": cli_page,
    "configuration.md": configuration_page,
}


def _settings_table(section: str) -> str:
    model = Settings.model_fields[section].annotation
    rows = []
    for name, setting in model.model_fields.items():  # type: ignore[union-attr]
        default = "none" if setting.default is None else f"`{_toml(setting.default)}`"
        rows.append(f"| `{name}` | {default} | {_cell(setting.description)} |\n")
    return "| key | default | meaning |\n|---|---|---|\n" + "".join(rows)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | dict) else f'"{value}"'


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield (*path, name), command
            yield from _commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([*path, *map(_name, arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## {' '.join(path)}", "", f"    {usage}", "", _text(command.help), ""]
    rows = [f"| `{_name(p)}` | {_cell(p.help)} |" for p in arguments]
    for option in options:
        names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        rows.append(f"| {names} | {_cell(option.help)}{_default(option)} |")
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    examples = re.findall(r"\[bold\](.*?)\[/bold\]", command.epilog or "", re.DOTALL)
    if examples:
        lines += ["For example:", "", *(f"    {' '.join(example.split())}" for example in examples), ""]
    return lines


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _default(option: Any) -> str:
    shown = option.default
    if shown is None or isinstance(shown, bool) or callable(shown) or option.required or shown == ():
        return ""
    return f" Default: `{shown}`."


def _text(text: str | None) -> str:
    """Help as Markdown: typer's markup and form feeds taken out."""
    plain = re.sub(r"\[/?(?:bold|green|cyan|dim|b|i|italic)[^\]]*\]", "", inspect.cleandoc(text or ""))
    return plain.replace("\f", "").replace("\b\n", "").replace("\\[", "[").strip()


def _cell(text: str | None) -> str:
    return " ".join(_text(text).split()).replace("|", "\\|")


def _names(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


def write(folder: Path = FOLDER) -> None:
    """Write all pages that are made, or have parts made, from the code."""
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    write()

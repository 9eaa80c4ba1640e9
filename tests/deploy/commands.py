"""A command line as the real CLI reads it, without being run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer.main

from featurestore.cli.app import app


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(command, its parameters) of `featurestore ARGUMENTS…`; raises what the CLI raises for a wrong one."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("featurestore", list(arguments), resilient_parsing=False)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    parsed = command.make_context(name, list(rest), parent=context)
    return name, dict(parsed.params)

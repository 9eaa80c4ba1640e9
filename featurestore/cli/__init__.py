"""The command line: a file for each command, tables for people, `--json` for programs, errors on stderr.

Exit codes: 0 done, 1 an error of ours told with its hint, 2 wrong usage, 130 interrupted; `materialize` ends with 75
when trying again helps. Anything else is a bug and shows its stack.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from featurestore.errors import FeatureStoreError

# Library that may be missing -> the extra that brings it.
_EXTRA_OF = {
    **dict.fromkeys(
        ("avro", "bytewax", "confluent_kafka", "fastavro", "numpy", "polars", "polars_hash", "prometheus_client"),
        "worker",
    ),
    **dict.fromkeys(
        ("pyarrow", "pydantic", "pydantic_settings", "rich", "rocksdict", "sqlalchemy", "structlog", "tomli"),
        "worker",
    ),
    **dict.fromkeys(("tenacity", "typer", "yaml"), "worker"),
    "pyiceberg": "iceberg",
    **dict.fromkeys(("httptools", "starlette", "uvicorn", "uvloop"), "server"),
}

# What a file system says to a folder that was chosen wrongly: no bug, so no stack.
_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit; without `arguments`, those of the process."""
    try:
        from featurestore.cli.app import app

        app(args=None if arguments is None else list(arguments), prog_name="featurestore")
    except FeatureStoreError as error:
        _fail(error.message, error.hint)
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if library not in _EXTRA_OF:
            raise
        _fail(
            f"this needs {library}, which is not installed",
            f"pip install 'featurestore[{_EXTRA_OF[library]}]'",
        )
    except OSError as error:
        if error.filename is None or error.errno not in _REFUSALS:
            raise
        _fail(f"{error.filename}: {error.strerror}", "choose another folder, or make this one writable for this user")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, hint: str | None) -> None:
    # sys.exit with a text prints it on stderr and exits with 1.
    lines = [f"Error: {message}", *([f"Hint: {hint}"] if hint else [])]
    sys.exit("\n".join(lines))

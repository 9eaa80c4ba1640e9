"""A project with many definitions: `write_project(folder, views, features)`."""

from __future__ import annotations

import json
from pathlib import Path

SOURCES = 10
VIEWS_A_MODULE = 50
COLUMNS = ("amount", "fee", "discount", "balance")
FUNCTIONS = ("sum", "mean", "max", "min")
WINDOWS = ("10m", "1h", "24h", "7d")


def write_project(folder: Path, views: int, features: int) -> list[str]:
    """Write modules with so many views of so many features each; ten sources, a service for every ten views.

    Returns the modules' paths, from the folder.
    """
    (folder / "schemas").mkdir(parents=True)
    (folder / "features").mkdir()
    fields = [{"name": "card_id", "type": "string"}, {"name": "status", "type": "string"}]
    fields += [{"name": column, "type": "double"} for column in (*COLUMNS, "rate")]
    fields.append({"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}})
    schema = {"type": "record", "name": "Payment", "fields": fields}
    (folder / "schemas" / "payment.avsc").write_text(json.dumps(schema))
    (folder / "features" / "sources.py").write_text(_sources())
    modules = []
    for start in range(0, views, VIEWS_A_MODULE):
        path = f"features/views_{start // VIEWS_A_MODULE:03}.py"
        (folder / path).write_text(_views(start, min(views, start + VIEWS_A_MODULE), features))
        modules.append(path)
    return modules


def _sources() -> str:
    lines = [
        '"""The sources."""',
        "import polars as pl",
        "from featurestore import Entity, KafkaSource",
        'card = Entity("card", join_keys={"card_id": pl.String}, description="A payment card.")',
        "sources = [",
        "    KafkaSource(",
        '        f"payments_{number}", topic=f"payments_{number}", schema="schemas/payment.avsc", format="json",',
        '        event_time="ts", max_out_of_orderness="5s", allowed_lateness="10m", owner="data@example.com",',
        '        description=f"Card payments of region {number}.",',
        "    )",
        f"    for number in range({SOURCES})",
        "]",
    ]
    return "\n".join(lines) + "\n"


def _views(start: int, end: int, features: int) -> str:
    lines = [
        '"""Some of the views."""',
        "import polars as pl",
        "from featurestore import FeatureService, StreamFeatureView, agg",
        "from features.sources import card, sources",
        'euro = {"amount_eur": pl.col("amount") * pl.col("rate")}',
    ]
    for number in range(start, end):
        lines += [
            f"activity_{number:04} = StreamFeatureView(",
            f'    "activity_{number:04}", source=sources[{number % SOURCES}], entities=[card], derive=euro,',
            f'    where=pl.col("status") == "state_{number}", ttl="7d", owner="team{number % 20}@example.com",',
            f'    description="What a card did in state {number}.", tags={{"tier": "{number % 3}"}},',
            "    features=[",
            *(f"        {_feature(position)}," for position in range(features)),
            "    ],",
            ")",
        ]
        if number % 10 == 9:
            group = ", ".join(f"activity_{one:04}[['f_0', 'f_1']]" for one in range(number - 9, number + 1))
            lines.append(f'model_{number // 10} = FeatureService("model_{number // 10}", features=[{group}])')
    return "\n".join(lines) + "\n"


def _feature(position: int) -> str:
    window = WINDOWS[position % len(WINDOWS)]
    column = ("amount_eur", *COLUMNS)[position // len(WINDOWS) % (len(COLUMNS) + 1)]
    function = FUNCTIONS[position // (len(WINDOWS) * (len(COLUMNS) + 1)) % len(FUNCTIONS)]
    told = f'.describe("The {function} of {column} over {window}.", unit="EUR", pii="indirect")'
    return f'agg.{function}("{column}", over="{window}").alias("f_{position}"){told}'

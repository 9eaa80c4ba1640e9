"""The standard job's view under the name that BACKFILL_VIEW gives, to be filled from the archive."""

import os

from benchmarks.standard_pipeline import OVER, card, payments
from featurestore import StreamFeatureView, agg

filled = StreamFeatureView(
    os.environ["BACKFILL_VIEW"],
    source=payments,
    entities=[card],
    features=[
        agg.count(over=OVER),
        *(getattr(agg, function)("amount", over=OVER) for function in ("sum", "min", "max", "mean")),
    ],
    owner="benchmarks@example.com",
)

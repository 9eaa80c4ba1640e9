"""The pages that a newcomer follows work as they stand; and a page that does not is noticed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Reader, blocks_of, missing_lines

FOLLOWED = ("docs/tutorial.md", "docs/examples.md")
IN_A_PROJECT = (
    "docs/http-api.md",
    "docs/how-to/read-features.md",
    "docs/how-to/offline-data.md",
    "docs/how-to/training-leakage.md",
    "docs/how-to/operate.md",
    "docs/how-to/recover.md",
    "docs/how-to/backfill.md",
    "docs/how-to/versions.md",
    "docs/how-to/batch-features.md",
    "docs/how-to/training-data.md",
    "docs/how-to/feature-services.md",
    "docs/how-to/models.md",
    "docs/how-to/ecosystem.md",
    "docs/how-to/check-in-ci.md",
    "docs/how-to/jobs-and-lineage.md",
    "docs/how-to/discovery.md",
    "docs/how-to/changing-features.md",
)

# What the how-to pages take for granted: the example project with events of the last ten minutes, and a server. With a
# key, for without one a partition may get a single old event, and its watermark holds all windows back.
PROJECT = """
```sh
featurestore init
```

```sh background
featurestore broker
```

```sh
featurestore produce transactions events.jsonl --key card_id
featurestore run pipelines/transactions.py --apply --until-end
```

```sh background
featurestore serve
```

```sh retry
curl -sSf http://127.0.0.1:6566/ready
```
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", FOLLOWED)
def test_following_the_page_works(page: str, tmp_path: Path):
    Reader(tmp_path).follow((ROOT / page).read_text())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", IN_A_PROJECT)
def test_following_the_page_in_the_example_project_works(page: str, tmp_path: Path):
    now_ms = time.time_ns() // 1_000_000
    events = [
        {
            "transaction_id": f"t{number}",
            "card_id": f"card_{number % 10:06}",
            "merchant_id": f"m{number % 3}",
            "amount": 12.5,
            "currency": "EUR",
            "status": "approved",
            "ts": now_ms - (600 - number) * 1_000,
        }
        for number in range(600)
    ]
    (tmp_path / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    Reader(tmp_path).follow(PROJECT + (ROOT / page).read_text())


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```sh\nexit 3\n```", "ended with 3"),
        ("```sh\necho a\n```\n\n```text\nb\n```", "did not print"),
        ("```python run\nraise ValueError('no')\n```", "ValueError"),
        ("```sh background\nfalse\n```", "ended with 1"),
    ],
)
def test_a_page_that_does_not_work_is_noticed(page: str, says: str, tmp_path: Path):
    with pytest.raises(AssertionError, match=says):
        Reader(tmp_path).follow(page)


def test_blocks_and_what_they_print():
    page = "```sh retry\necho 1\n```\nand\n\n```text\n1\n```\n\n```python file=a/b.py\nx = 1\n```\n"
    first, second = blocks_of(page)
    assert (first.kind, first.words, first.prints) == ("sh", ("retry",), "1\n")
    assert (second.file, second.text) == ("a/b.py", "x = 1\n")


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        ("a  b", "a b\nc", []),
        ("a … c", "a  7 of b c", []),
        ("a … c", "a 7 d", ["a … c"]),
        ("", "anything", []),
        ("b", "ab", ["b"]),
    ],
)
def test_expected_lines(expected: str, printed: str, missing: list[str]):
    assert missing_lines(expected, printed) == missing

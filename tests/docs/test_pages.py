"""The pages that a newcomer follows work as they stand; and a page that does not is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Reader, blocks_of, missing_lines

FOLLOWED = ("docs/tutorial.md",)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", FOLLOWED)
def test_following_the_page_works(page: str, tmp_path: Path):
    Reader(tmp_path).follow((ROOT / page).read_text())


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

"""The reference pages are what the code says now, and no page links to what is not there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT
from tests.docs.reference import FOLDER, PAGES

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
PAGES_WITH_LINKS = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_reference_page_is_made_from_the_code(name: str):
    assert (FOLDER / name).read_text() == PAGES[name](), "run `python -m tests.docs.reference`"


@pytest.mark.parametrize("page", PAGES_WITH_LINKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_can_be_found_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        waiting += [(page.parent / t).resolve() for t in LINK.findall(page.read_text()) if "://" not in t]
    assert set((ROOT / "docs").rglob("*.md")) - reached == set()

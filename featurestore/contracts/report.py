"""The report of a check: findings by section, and whether all is well."""

from __future__ import annotations

from typing import Literal

import msgspec

from featurestore.errors import FeatureStoreError

Section = Literal["definitions", "owners", "schemas", "features", "samples", "contracts", "live"]
Level = Literal["ok", "skipped", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence of a report. subject: the definition, file or feature it is about. hint: the way out."""

    section: Section
    level: Level
    subject: str
    message: str
    hint: str | None = None


class Report(msgspec.Struct, frozen=True):
    """All findings, in the order of the sections."""

    findings: list[Finding]

    @property
    def failed(self) -> int:
        """How many findings fail the check."""
        return sum(finding.level == "failed" for finding in self.findings)


def failure(section: Section, subject: str, error: FeatureStoreError) -> Finding:
    """An error as a finding."""
    return Finding(section, "failed", subject, error.message, error.hint)

"""Contracts: what consumers and producers may rely on, and the check that holds definitions to it.

A topic's schema may only change as its readers and writers bear it (`compatibility`), features may not vanish under
their consumers (`evolution`), and what features are is written down in contract files (`models`) and verified
(`verify`).
"""

from featurestore.contracts.models import Example, FeatureContract, SourceContract, ViewContract

__all__ = ["Example", "FeatureContract", "SourceContract", "ViewContract"]

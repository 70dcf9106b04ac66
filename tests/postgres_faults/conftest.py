"""A running system for each module, on servers of its own; `world` and what a failure shows are as in the scenarios."""

from tests.scenarios.conftest import pytest_runtest_makereport, world

__all__ = ["pytest_runtest_makereport", "world"]

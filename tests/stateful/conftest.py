"""The profile for long runs, and the report of a failure."""

from hypothesis import settings

from tests.system.conftest import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

# For `--hypothesis-profile=long`: many lives, and other ones each time; `--hypothesis-seed` repeats a run.
settings.register_profile("long", max_examples=200, stateful_step_count=40, derandomize=False)

"""What the system printed stands beside the failure of a test that used it."""

from collections.abc import Generator

import pytest

from tests.system.running import OUTPUT_SHOWN, System


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    system = getattr(item, "funcargs", {}).get("system")
    if report.failed and isinstance(system, System):
        lines = system.output.read_text(errors="replace").splitlines()
        told = "\n".join(line for line in lines if "request.answered" not in line and "signal.weighed" not in line)
        report.sections.append(("payments up", told[-OUTPUT_SHOWN:]))
    return report

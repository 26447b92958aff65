"""Fixtures for every test, and what a failed one shows of its cluster."""

import os
from collections.abc import Generator

import hypothesis
import pytest

from tests.fixtures.cluster import (
    add_diagnosis,
    api_namespace,
    apiserver,
    cluster,
    kubectl,
    namespace,
)

# Tests fork in a process in which others have called gRPC, which would then write to standard error.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# The same examples in every run, so that a failure repeats; no time limit per example, because another process may be
# using the CPU.
hypothesis.settings.register_profile("mlmodel", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("mlmodel")

__all__ = ["api_namespace", "apiserver", "cluster", "kubectl", "namespace"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show events, pods and logs of a failed test's namespace, before the fixtures remove it."""
    report = yield
    add_diagnosis(item, report)
    return report

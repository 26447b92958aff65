"""Fixtures for all tests, and the report of a failed test on a cluster."""

import os
from collections.abc import Generator

import hypothesis
import pytest

from tests.fixtures.attacks import (
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.fixtures.cluster import (
    add_diagnosis,
    api_namespace,
    apiserver,
    cluster,
    kubectl,
    namespace,
)
from tests.fixtures.readme import trained_example

# gRPC writes to standard error when a process that has used it forks, which some tests do.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# The same examples in every run, so that a failure repeats; no time limit per example, because another process may be
# using the CPU.
hypothesis.settings.register_profile("mlmodel", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("mlmodel")

__all__ = [
    "api_namespace",
    "apiserver",
    "cluster",
    "kubectl",
    "namespace",
    "pytest_addoption",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "trained_example",
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add models, pods, events and logs of the namespace to the report of a failed test, before it is deleted."""
    report = yield
    add_diagnosis(item, report)
    return report

"""Options, the server under test, and failures that name the broken rule and its section."""

from __future__ import annotations

import inspect
import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mlmodel_server import package
from tests.conformance.own import running
from tests.conformance.target import Target
from tests.unit.server.models import mixed


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--url", help="http://HOST:PORT of a running server (default: start our own)")
    group.addoption("--grpc", help="HOST:PORT of its gRPC port")
    group.addoption("--model", help="name of the model to test (required with --url)")
    group.addoption("--request", type=Path, help="JSON file with a request that the model answers, if it rejects zeros")
    group.addoption("--house", action="store_true", help="also test what only our server promises")
    group.addoption("--fuzz", type=int, default=300, metavar="N", help="number of random requests (default: 300)")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "section(text): section of the specification that the test is about",
        "extension(name): only for servers whose metadata lists this extension",
        "grpc: only for servers with a known gRPC address",
        "house: a promise of our server beyond the protocol",
    ):
        config.addinivalue_line("markers", line)


def _models(config: pytest.Config) -> list[str]:
    """Our server is tested with a model of one matrix and a model of named columns, of numbers and text."""
    return ["given"] if config.getoption("url", None) else ["iris", "mixed"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "served" in metafunc.fixturenames:
        metafunc.parametrize("served", _models(metafunc.config), scope="session", indirect=True)


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server under test."""
    option = request.config.getoption
    if option("url", None):
        if not option("model"):
            raise pytest.UsageError("--url requires --model NAME")
        sample = json.loads(option("request").read_text()) if option("request") else {}
        given = Target(option("url").rstrip("/"), option("model"), option("grpc"), own=option("house"), sample=sample)
        given.discover()
        yield given
        return
    arguments = ["--uri", "builtin://iris"]
    if request.param == "mixed":
        path = package.save(*mixed("ignore"), tmp_path_factory.mktemp("conformance") / "mixed")
        arguments = ["--uri", "pvc://claim", "--path", str(path)]
    with running(request.param, *arguments) as server:
        ours = Target(server.url, request.param, server.grpc, own=True, pid=server.process.pid)
        ours.discover()
        yield ours


@pytest.fixture
def target(request: pytest.FixtureRequest, served: Target) -> Target:
    """The server under test; skip the test if its rule does not apply to this server."""
    node = request.node
    if node.get_closest_marker("house") and not served.own:
        pytest.skip("a promise of our server only; test it with --house")
    if node.get_closest_marker("grpc") and not served.grpc:
        pytest.skip("give the server's gRPC address with --grpc HOST:PORT")
    for marker in node.iter_markers("extension"):
        if marker.args[0] not in served.server.get("extensions", []):
            assert not served.own, f"our server lists the extension {marker.args[0]}"
            pytest.skip(f"the server does not list the extension {marker.args[0]}")
    return served


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the broken rule to the report of a failed test."""
    report = yield
    if report.failed and (section := item.get_closest_marker("section")):
        rule = inspect.getdoc(getattr(item, "function", None)) or item.name
        report.sections.append(("broken rule", f"{section.args[0]}: {rule}"))
    return report

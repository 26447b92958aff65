"""Options, the server under test, and failures that say which rule of which section is broken."""

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
    group.addoption("--url", help="http://HOST:PORT of a running server; our own is started without it")
    group.addoption("--grpc", help="HOST:PORT of its gRPC")
    group.addoption("--model", help="name of the model to ask (needed with --url)")
    group.addoption("--request", type=Path, help="JSON file with a request that the model answers, if zeros are none")
    group.addoption("--house", action="store_true", help="test what only our server promises, too")
    group.addoption("--fuzz", type=int, default=300, metavar="N", help="random requests to send (300)")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "section(text): of the specification that a test is about",
        "extension(name): only for a server whose metadata lists it",
        "grpc: only for a server whose gRPC address is known",
        "house: promised by our server beyond the protocol",
    ):
        config.addinivalue_line("markers", line)


def _models(config: pytest.Config) -> list[str]:
    """Ours is tested with a model of one matrix and with a model of named columns, of numbers and of text."""
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
            raise pytest.UsageError("name the model to ask with --model")
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
    """The server under test, if the test's rule is one that it has to keep."""
    node = request.node
    if node.get_closest_marker("house") and not served.own:
        pytest.skip("promised by our server only; --house tests it")
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
    """Say which rule a failed test is about."""
    report = yield
    if report.failed and (section := item.get_closest_marker("section")):
        rule = inspect.getdoc(getattr(item, "function", None)) or item.name
        report.sections.append(("broken rule", f"{section.args[0]}: {rule}"))
    return report

"""Fixtures for tests on a whole cluster: a model in its own namespace, its clients, and control over the operator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack import installed_operator
from hack.cluster import Cluster
from hack.quickstart import Model, train
from hack.traffic import Traffic


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster")
    group.addoption("--whole", action="store_true", help="also the tests that are marked as part of the whole census")
    group.addoption("--soak", type=int, default=3, metavar="N", help="rollouts of the soak (3)")
    group.addoption("--busy", type=int, default=1, metavar="N", help="rollouts on a busy node (1)")
    group.addoption("--identical", type=int, default=1, metavar="N", help="rollouts of the same model (1)")
    group.addoption("--upgrade-from", metavar="REVISION", help="the Git revision from which to upgrade")
    group.addoption("--restarts", type=int, default=4, metavar="N", help="rolling restarts of a model under load (4)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "restarts" in metafunc.fixturenames:
        number = metafunc.config.getoption("restarts", 4)
        metafunc.parametrize("restarts", [pytest.param(number, marks=pytest.mark.timeout(300 + 30 * number))])
    if "busy_rollouts" in metafunc.fixturenames:
        number = metafunc.config.getoption("busy", 1)
        metafunc.parametrize("busy_rollouts", [pytest.param(number, marks=pytest.mark.timeout(300 + 300 * number))])
    if "identical" in metafunc.fixturenames:
        number = metafunc.config.getoption("identical", 1)
        metafunc.parametrize("identical", [pytest.param(number, marks=pytest.mark.timeout(400 + 120 * number))])
    if "soak" in metafunc.fixturenames:
        number = metafunc.config.getoption("soak", 3)
        metafunc.parametrize("soak", [pytest.param(number, marks=pytest.mark.timeout(300 + 120 * number))])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of the whole census to `make soak`; pytest prints how many it deselected."""
    if config.getoption("whole", False):
        return
    others = [item for item in items if item.get_closest_marker("whole")]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if not item.get_closest_marker("whole")]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The trained versions of the quickstart: their folder, and bodies of requests."""
    out = tmp_path_factory.mktemp("quickstart")
    return out, train(out)


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Cluster:
    """The cluster with the operator, installed as clients install it."""
    installed_operator.install(cluster)
    return cluster


@pytest.fixture
def model(cluster: Cluster, operator: Cluster, namespace: str, trained: tuple[Path, list[Any]]) -> Model:
    """The quickstart's model in its own namespace, not applied yet."""
    return Model(cluster, namespace, trained[0])


@pytest.fixture
def traffic(cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]) -> Callable[..., Traffic]:
    """Clients of the model: ``with traffic(rate=50) as clients`` starts them."""
    return partial(
        Traffic,
        cluster.kubectl,
        cluster.kubectl_command,
        model.namespace,
        model.url,
        trained[1],
        image=installed_operator.image("server"),
    )


@pytest.fixture
def operator_settings(cluster: Cluster, operator: Cluster) -> Callable[..., AbstractContextManager[None]]:
    """``with operator_settings(SERVER_IMAGE=…)`` runs the operator with other environment variables."""
    return partial(installed_operator.settings, cluster)


@pytest.fixture
def kill_operator(cluster: Cluster, operator: Cluster) -> Callable[[], None]:
    """Kills the operator's process and waits until its container has been restarted."""
    return partial(installed_operator.kill, cluster)

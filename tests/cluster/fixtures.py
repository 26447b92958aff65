"""pytest fixtures: a cluster, a namespace for each test; and what a failed test has to show."""

import os
import re
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import Cluster, open_cluster, start
from tests.cluster.report import ClusterError

Kubectl = Callable[..., str]
"""`kubectl(*args, input=None, seconds=60) -> str`, in the test's namespace."""

OPERATOR_NAMESPACE = "mlmodel-system"
OPERATOR = "mlmodel-operator"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A whole cluster with the project's images: a new one, or the running one that MLMODEL_CLUSTER names."""
    name = os.environ.get("MLMODEL_CLUSTER")
    try:
        if name:
            running = open_cluster(name)
            if running is None:
                pytest.fail(f"MLMODEL_CLUSTER is {name}, but no such cluster runs.", pytrace=False)
            running.load_images()
            yield running
        else:
            with start(f"test-{os.getpid()}") as started:
                yield started
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def apiserver() -> Iterator[Cluster]:
    """An API server without nodes, ready in seconds; what is deleted goes away, but nothing is ever run."""
    try:
        with start(f"api-{os.getpid()}", node=False) as started:
            yield started
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a namespace that only this test uses."""
    yield from _namespace(cluster, request)


@pytest.fixture
def api_namespace(apiserver: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a namespace on the API server without nodes that only this test uses."""
    yield from _namespace(apiserver, request)


def _namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-").strip("-")
    name = f"{words[:40].strip('-')}-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    # Pods are refused until it exists.
    cluster.wait(
        f"Service account of {name}", lambda: bool(cluster.kubectl("get", "serviceaccount", "default", "-n", name))
    )
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Kubectl:
    """kubectl in the test's namespace."""

    def run(*args: str, input: str | None = None, seconds: float = 60) -> str:
        return cluster.kubectl("--namespace", namespace, *args, input=input, seconds=seconds)

    return run


def diagnosis(cluster: Cluster, namespace: str) -> str:
    """Return what one looks at first when something in a namespace went wrong."""
    in_namespace = ("--namespace", namespace)
    logs = ("--all-containers", "--prefix", "--ignore-errors", "--max-log-requests=50")
    commands: list[tuple[str, ...]] = [
        ("get", "mlmodels", *in_namespace, "-o", "yaml"),
        ("get", "deployments,pods,services,horizontalpodautoscalers", *in_namespace, "-o", "wide"),
        ("get", "events", *in_namespace, "--sort-by=.metadata.creationTimestamp"),
    ]
    try:
        pods = cluster.kubectl("get", "pods", *in_namespace, "-o", "name").split()
    except ClusterError as error:
        return str(error)
    for pod in pods:
        commands.append(("logs", pod, *in_namespace, *logs, "--tail=40"))
    operator_logs = ("logs", f"--selector=app.kubernetes.io/name={OPERATOR}", "--namespace", OPERATOR_NAMESPACE)
    if namespace != OPERATOR_NAMESPACE:
        commands.append((*operator_logs, *logs, "--tail=150"))
    parts = []
    for command in commands:
        try:
            output = cluster.kubectl(*command)
        except ClusterError as error:
            output = str(error)
        parts.append(f"$ kubectl {' '.join(command)}\n{output.rstrip()}")
    return "\n\n".join(parts)


def add_diagnosis(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add to the report of a failed test what its namespace looks like; to be called while that still exists."""
    if not report.failed or report.when == "teardown":
        return
    arguments: dict[str, object] = getattr(item, "funcargs", {})
    for cluster_name, namespace_name in (("cluster", "namespace"), ("apiserver", "api_namespace")):
        cluster, namespace = arguments.get(cluster_name), arguments.get(namespace_name)
        if isinstance(cluster, Cluster) and isinstance(namespace, str):
            report.sections.append((f"namespace {namespace}", diagnosis(cluster, namespace)))

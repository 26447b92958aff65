"""TLS on a whole cluster: a missing Secret, a renewed certificate under traffic, and a broken one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import Cluster
from hack.cluster.cluster import Embedded
from hack.quickstart import NAME, Model, condition, message
from tests.e2e.test_sources import apply, spec
from tests.integration.router.certificates import Authority, Pair

pytestmark = pytest.mark.cluster

SECONDS = 25


def write(model: Model, pair: Pair) -> None:
    """Write the certificate into the Secret, as cert-manager does, and have kubelet refresh the mounts at once."""
    data = {"tls.crt": pair.certificate, "tls.key": pair.key}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "tumour-tls"},
        "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
    }
    model("apply", "-f", "-", input=json.dumps(body))
    for pod in model.pods("router"):
        model("annotate", "pod", pod, f"test/renewed={time.time()}", "--overwrite")


def test_a_certificate_is_awaited_renewed_without_a_lost_request_and_a_broken_one_is_reported(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    if not isinstance(cluster.backend, Embedded):
        pytest.skip("only the embedded cluster can run programs of this machine in its network")
    model("apply", "-f", str(model.out / "tumour-v1.yaml"))
    source = {"uri": "configmap://tumour-v1", "version": "v1"}
    apply(model, spec(source))
    model.wait_ready(180, "v1")
    host = f"{NAME}.{model.namespace}.svc"
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)

    def status_code(url: str) -> str:
        try:
            return cluster.run(
                ["curl", "-s", "-m", "5", "--cacert", str(ca), "-o", "/dev/null", "-w", "%{http_code}", url]
            )
        except Exception:
            return "none"

    # A Secret that is missing: the router pods from before serve on.
    apply(model, spec(source, traffic={"tls": {"secretName": "tumour-tls"}}))
    model.wait("the message names the Secret", 60, lambda status: "has Secret tumour-tls" in message(status))
    assert status_code(f"http://{host}/v2/models/{NAME}") == "200"

    write(model, authority.issue("first", host))
    status = model.wait_ready(180, "v1")
    assert status["url"].startswith(f"https://{host}/")
    cluster.wait("https answers", lambda: status_code(f"https://{host}/v2/models/{NAME}") == "200", seconds=30)
    cluster.wait("http does not", lambda: status_code(f"http://{host}/v2/models/{NAME}") == "403", seconds=30)
    assert status_code(f"http://{host}/v2/health/live") == "200"

    # A renewal under traffic.
    client = subprocess.Popen(
        cluster.exec_args([sys.executable, "-m", "tests.e2e.tls_client", str(ca), host, str(SECONDS)]),
        env={**os.environ, "GRPC_DNS_RESOLVER": "native", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(5)  # some requests with the first certificate; the test is about what happens while they go on
    before = restarts(model)
    write(model, authority.issue("second", host))
    printed, _ = client.communicate(timeout=SECONDS + 60)
    seen = json.loads(printed)
    print(f"certificate renewed: {seen}")
    assert (seen["lost"], seen["names"]) == (0, ["first", "second"]), seen["errors"]
    assert seen["sent"] > 20 * SECONDS
    assert restarts(model) == before

    # A broken certificate: the one before serves on, and the conditions say what to do.
    good, other = authority.issue("third", host), authority.issue("other", host)
    write(model, Pair(good.certificate, other.key))

    def is_reported(status: dict[str, Any]) -> bool:
        model("annotate", "mlmodel", NAME, f"test/look={time.time()}", "--overwrite")  # instead of a minute
        return "cannot use the renewed certificate in Secret tumour-tls" in message(status)

    status = model.wait("the broken certificate is reported", 60, is_reported)
    assert condition(status, "Available") == "True"
    assert status_code(f"https://{host}/v2/models/{NAME}") == "200"
    write(model, good)

    def is_ready(status: dict[str, Any]) -> bool:
        model("annotate", "mlmodel", NAME, f"test/look={time.time()}", "--overwrite")
        return condition(status, "Ready") == "True"

    model.wait("the good certificate is taken", 60, is_ready)


def restarts(model: Model) -> dict[str, Any]:
    """Return the restarts of the router's containers, by pod."""
    return {pod: restarts for pod, (_, restarts) in model.pods("router").items()}

"""Sources of models and access to them, on a whole cluster: storage, images, trust, API keys, gRPC."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from hack import installed_operator
from hack.cluster import Cluster
from hack.cluster.cluster import Embedded
from hack.go_programs import ORAS, REGISTRY, VERSITYGW, program
from hack.quickstart import NAME, Model, condition, message
from hack.traffic import Traffic
from mlmodel_server.loading import signing

pytestmark = pytest.mark.cluster

StartTraffic = Callable[..., AbstractContextManager[Traffic]]
USER, PASSWORD = "tester", "hush-hush"
STORAGE_PORT, REGISTRY_PORT = 17070, 15000
QUICK = {"steps": [{"weight": 50}], "bakeSeconds": 3, "gates": {"errors": {"maxPercent": 5}}}


@contextlib.contextmanager
def inside(cluster: Cluster, argv: Sequence[str | Path], address: str, port: int, **env: str) -> Iterator[None]:
    """Run a program of this machine in the network of the cluster inside the context, entered when it listens."""
    if not isinstance(cluster.backend, Embedded):
        pytest.skip("only the embedded cluster can run programs of this machine in its network")
    process = subprocess.Popen(
        cluster.exec_args([str(word) for word in argv]),
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    look = f"import socket; socket.create_connection(({address!r}, {port}), 1).close(); print('yes')"
    try:
        cluster.wait(f"{argv[0]} answers", lambda: bool(cluster.run(["python3", "-c", look])), seconds=30)
        yield
    finally:
        process.terminate()
        process.wait(30)


def spec(model: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the manifest of the quickstart's MLModel with another source, and ``more`` in its spec."""
    return {
        "apiVersion": "mlmodel.dev/v1alpha1",
        "kind": "MLModel",
        "metadata": {"name": NAME},
        "spec": {"model": model, **more},
    }


def apply(model: Model, manifest: Mapping[str, Any]) -> None:
    model("apply", "-f", "-", input=json.dumps(manifest))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Storage -------------------------------------------------------------------------------------------------------------


@pytest.mark.attack(held=True)
def test_a_package_in_s3_uses_credentials_from_the_secret_and_does_not_disclose_them(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    (node,) = cluster.get("nodes")["items"]
    address = next(found["address"] for found in node["status"]["addresses"] if found["type"] == "InternalIP")
    bucket = tmp_path / "buckets" / "models"
    bucket.mkdir(parents=True)
    (tmp_path / "metadata").mkdir()
    for version in ("v1", "v2"):
        (bucket / version).mkdir()
        for file in (model.out / version).iterdir():
            (bucket / version / file.name).write_bytes(file.read_bytes())
    server = (
        *(program(VERSITYGW), "--port", f"{address}:{STORAGE_PORT}", "--quiet"),
        *("posix", "--sidecar", tmp_path / "metadata", tmp_path / "buckets"),
    )

    def secret(password: str) -> None:
        variables = {
            "AWS_ENDPOINT_URL": f"http://{address}:{STORAGE_PORT}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": password,
        }
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlmodel-storage"}, "stringData": variables}
        model("apply", "-f", "-", input=json.dumps(body))

    keys = {"ROOT_ACCESS_KEY_ID": USER, "ROOT_SECRET_ACCESS_KEY": PASSWORD}
    with inside(cluster, server, address, STORAGE_PORT, **keys):
        secret("wrong-and-secret")
        source = {"uri": "s3://models/v1", "version": "v1", "sha256": sha256(model.out / "v1" / "mlmodel.json")}
        apply(model, spec(source))
        status = model.wait(
            "the message gives the reason", 60, lambda status: "rejected the credentials" in message(status)
        )
        assert condition(status, "Ready") == "False"
        secret(PASSWORD)
        # A new pod mounts the changed Secret at once; the old one would see the change after up to two minutes.
        model("delete", "pod", "-l", "mlmodel.dev/component=server", "--wait=false")
        status = model.wait_ready(180, "v1")
        assert status["stable"]["digest"] == f"sha256:{source['sha256']}"
        server_pod = f"deploy/{NAME}-{status['stable']['revision']}"
        seen = model("exec", server_pod, "-c", "server", "--", "sh", "-c", "env; ls -R /etc/mlmodel 2>&1 || true")
        assert "MLMODEL_STORAGE_CREDENTIALS" not in seen
        assert "AWS_" not in seen, "only the init container has the credentials"

        apply(model, spec(source | {"uri": "s3://models/v2/", "version": "v2"}))
        status = model.wait_rejected(60)
        assert status["rejected"][0]["reason"] == "ModelRejected"
        assert "sha256" in message(status)
    shown = model("get", "mlm,deployments,pods,events", "-o", "yaml")
    logs = model(
        "logs", "-l", "mlmodel.dev/component=server", "--tail=-1", "--prefix", "--all-containers", "--ignore-errors"
    )
    assert "secretName: mlmodel-storage" in shown
    assert "s3://models/v1" in shown
    assert PASSWORD not in shown + logs
    assert "wrong-and-secret" not in shown + logs


# Images --------------------------------------------------------------------------------------------------------------


def layout(folder: Path, package: Path) -> str:
    """Write an image with the files of ``package`` at its root as an OCI layout; return its digest."""

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    (folder / "blobs" / "sha256").mkdir(parents=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for file in sorted(package.iterdir()):
            member = tarfile.TarInfo(file.name)
            member.size = file.stat().st_size
            with file.open("rb") as data:
                tar.addfile(member, data)
    layer = blob(packed.getvalue())
    config = blob(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                "config": {},
            }
        ).encode()
    )
    kind = "application/vnd.oci.image"
    manifest = blob(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}.manifest.v1+json",
                "config": config | {"mediaType": f"{kind}.config.v1+json"},
                "layers": [layer | {"mediaType": f"{kind}.layer.v1.tar"}],
            }
        ).encode()
    )
    entry = manifest | {"mediaType": f"{kind}.manifest.v1+json"}
    tagged = entry | {"annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(manifest["digest"])


def test_an_image_is_mounted_by_the_node_and_a_missing_one_is_rejected(
    cluster: Cluster, model: Model, traffic: StartTraffic, tmp_path: Path
) -> None:
    digest = layout(tmp_path / "image", model.out / "v1")
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{REGISTRY_PORT}'}}\n"
    )
    server = (program(REGISTRY), "serve", config)
    with inside(cluster, server, "127.0.0.1", REGISTRY_PORT, OTEL_TRACES_EXPORTER="none"):
        repository = f"127.0.0.1:{REGISTRY_PORT}/models/tumour"
        cluster.run(
            [
                *(str(program(ORAS)), "cp", "--from-oci-layout", f"{tmp_path / 'image'}:v1"),
                *("--to-plain-http", f"{repository}:v1"),
            ]
        )
        apply(model, spec({"uri": f"oci://{repository}@{digest}", "version": "v1"}))
        status = model.wait_ready(180, "v1")
        assert status["stable"]["digest"] == digest
        with traffic(rate=20) as clients:
            apply(model, spec({"uri": f"oci://{repository}@sha256:{'0' * 64}", "version": "v2"}))
            status = model.wait_rejected(60)
            seen = clients.stop()
    print(f"{message(status)}; {seen.failed} of {seen.sent} failed")
    assert status["rejected"][0]["reason"] == "ImageFailed"
    assert set(seen.versions) == {"v1"}
    assert seen.failed == 0, seen.errors


# Trust ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rights(cluster: Cluster, keys: str) -> Iterator[None]:
    """Give the operator both rights inside the context, with keys from a ConfigMap, as an administrator does it."""
    where = ("-n", installed_operator.NAMESPACE)
    template = json.loads(cluster.kubectl("get", *where, installed_operator.DEPLOYMENT, "-o", "json"))["spec"][
        "template"
    ]
    given = json.loads(json.dumps(template))
    container = given["spec"]["containers"][0]
    container["args"] = ["--allow-unsafe-models", "--signing-keys", "/etc/mlmodel/signing/keys.pem"]
    container["volumeMounts"].append({"name": "signing", "mountPath": "/etc/mlmodel/signing", "readOnly": True})
    given["spec"]["volumes"].append({"name": "signing", "configMap": {"name": "signing-keys"}})

    def set_template(body: Mapping[str, Any]) -> None:
        patch = [{"op": "replace", "path": "/spec/template", "value": body}]
        cluster.kubectl("patch", *where, installed_operator.DEPLOYMENT, "--type=json", "-p", json.dumps(patch))
        installed_operator.wait_installed(cluster)

    cluster.kubectl("create", *where, "configmap", "signing-keys", f"--from-literal=keys.pem={keys}")
    try:
        set_template(given)
        yield
    finally:
        set_template(template)
        cluster.kubectl("delete", *where, "configmap", "signing-keys")


def pair() -> tuple[bytes, str]:
    """Return a private key and its public key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )


@pytest.mark.attack(held=True)
def test_trust_beyond_strict_requires_a_right_that_only_the_administrator_gives(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    X = np.arange(40.0).reshape(20, 2)
    clip = FunctionTransformer(functools.partial(np.clip, a_min=-1, a_max=1))
    fitted = make_pipeline(StandardScaler(), clip, LogisticRegression()).fit(X, X[:, 0] > 20)
    artefact = tmp_path / "model.joblib"
    joblib.dump(fitted, artefact)
    (private, public), (stranger, _) = pair(), pair()
    for name, key in (("known", private), ("unknown", stranger)):
        (tmp_path / "model.sig").write_bytes(signing.sign({"model.joblib": artefact.read_bytes()}, key, "signed"))
        files = (f"--from-file={artefact}", f"--from-file={tmp_path / 'model.sig'}")
        model("create", "configmap", name, *files)
    models = {
        "strict": ("known", "strict"),
        "signed": ("known", "signed"),
        "another": ("known", "signed"),
        "forged": ("unknown", "signed"),
        "unsafe": ("known", "unsafe"),
    }
    for name, (source, trust) in models.items():
        body = spec({"uri": f"configmap://{source}", "trust": trust})
        apply(model, body | {"metadata": {"name": name}})

    def status(name: str) -> dict[str, Any]:
        found: dict[str, Any] = model.get(name).get("status", {})
        return found

    def wait(name: str, reason: str) -> None:
        def holds() -> bool:
            found = status(name).get("conditions", [])
            return any(one["type"] == "Ready" and one["reason"] == reason for one in found)

        cluster.wait(f"{name} is {reason}", holds, seconds=90)

    flags = dict.fromkeys(("signed", "another", "forged"), "--signing-keys") | {"unsafe": "--allow-unsafe-models"}
    for name, flag in flags.items():
        wait(name, "TrustNotAllowed")
        assert condition(status(name), "Stalled") == "True"
        assert flag in message(status(name))
    wait("strict", "ModelRejected")
    assert "functools.partial" in message(status("strict"))
    servers = model("get", "deployments", "-l", "mlmodel.dev/component=server", "-o", "name").split()
    assert [name.split("/")[1].split("-")[0] for name in servers] == ["strict"]

    with rights(cluster, public):
        for name in ("signed", "unsafe"):
            wait(name, "Serving")
        wait("forged", "ModelRejected")
        print(message(status("forged")))
        wait("another", "ModelRejected")
        assert "was signed as 'signed', but is served as 'another'" in message(status("another"))
        pods = {name: pod for name, pod in model.pods().items() if name.startswith(("signed", "unsafe"))}
        assert len(pods) == 2
    for name in ("signed", "unsafe"):
        wait(name, "TrustNotAllowed")
        assert condition(status(name), "Available") == "True", "a model that serves goes on serving"
    gone = ("forged", "another")
    cluster.wait("Deletion of the rejected pods", lambda: not any(name.startswith(gone) for name in model.pods()))
    assert pods.items() <= model.pods().items()


# API keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.attack(held=True)
def test_no_pod_starts_without_its_api_keys_and_no_request_succeeds_without_one(
    cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]
) -> None:
    model("apply", "-f", str(model.out / "tumour-v1.yaml"))
    source = {"uri": "configmap://tumour-v1", "version": "v1"}
    apply(model, spec(source, serving={"apiKeys": {"secretName": "tumour-keys"}}))
    status = model.wait(
        "the message names the Secret", 60, lambda status: "has a Secret tumour-keys" in message(status)
    )
    assert condition(status, "Ready") == "False"
    line = f"alice: {hashlib.sha256(b'sesame').hexdigest()}"
    model("create", "secret", "generic", "tumour-keys", f"--from-literal=keys={line}", "--from-literal=other=secret")
    model.wait_ready(180, "v1")

    def status_code(*more: str) -> str:
        words = ("-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json")
        body = ("-d", json.dumps(trained[1][0]))
        return cluster.run(["curl", *words, *body, *more, model.url])

    assert status_code() == "401"
    assert status_code("-H", "Authorization: Bearer wrong") == "401"
    assert status_code("-H", "Authorization: Bearer sesame") == "200"
    (pod,) = model.pods()
    assert model("exec", pod, "--", "ls", "/etc/mlmodel/api-keys").split() == ["keys"]


# gRPC ----------------------------------------------------------------------------------------------------------------


def test_rollouts_with_only_grpc_traffic_promote_and_roll_back_and_no_call_fails(
    cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]
) -> None:
    model.apply("v1")
    model.wait_ready(180, "v1")
    url = f"grpc://{NAME}.{model.namespace}.svc:9000/{NAME}"
    image = installed_operator.image("server")
    with Traffic(cluster.kubectl, cluster.kubectl_command, model.namespace, url, trained[1], image=image) as clients:
        model.apply("v2", rollout=QUICK)
        status = model.wait_ready(180, "v2")
        promoted = status["history"][0]
        clients.wait(lambda seen: seen.versions.get("v2", 0) > 100, 30, "v2 answers")
        model.apply("v3-all", rollout=QUICK)
        rehearsed = model.wait_rejected(120)["rejected"][0]
        assert clients.now.fallbacks == 0
        model.apply("v3-all", rollout={**QUICK, "rehearsal": {"requests": 0}, "retry": "live"})
        status = model.wait_rejected(120)
        clients.wait_for_requests(50)
        seen = clients.stop()
    rejected = status["rejected"][0]
    print(
        f"{seen.sent} calls, {seen.failed} failed, {seen.fallbacks} retried on stable, {seen.versions}; "
        f"{rejected['message']}"
    )
    assert seen.failed == 0, seen.errors
    assert promoted["outcome"] == "Promoted"
    assert rehearsed["reason"] == "RehearsalErrors"
    assert rejected["reason"] == "ErrorRate"
    assert seen.fallbacks > 0
    assert set(seen.versions) == {"v1", "v2"}


def test_replaced_pods_and_routers_lose_no_grpc_call(
    cluster: Cluster, model: Model, trained: tuple[Path, list[Any]]
) -> None:
    model.apply("v1", serving={"replicas": 2})
    model.wait("2 pods are ready", 90, lambda status: status.get("replicas") == "2/2")
    url = f"grpc://{NAME}.{model.namespace}.svc:9000/{NAME}"
    image = installed_operator.image("server")
    command = cluster.kubectl_command
    with Traffic(cluster.kubectl, command, model.namespace, url, trained[1], image=image, rate=100) as clients:
        for pod in sorted(model.pods()):
            model("delete", "pod", pod, "--wait=true")
            model.wait("2 pods are ready again", 90, lambda status: status.get("replicas") == "2/2")
        model("rollout", "restart", f"deploy/{NAME}-router")
        model("rollout", "status", f"deploy/{NAME}-router", "--timeout=90s")
        clients.wait_for_requests(200)
        seen = clients.stop()
    print(f"{seen.failed} of {seen.sent} calls failed, slowest {seen.slowest_ms} ms")
    assert seen.failed == 0, seen.errors

"""A real API server accepts the children of a model: known fields, valid values, pods that `restricted` allows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.cluster import Cluster
from mlmodel_operator import resources
from mlmodel_operator.api.types import ApiKeys, ModelSource, Owner, Revision, Snapshot, Traffic

SHA = "9f2c" * 16


@pytest.mark.parametrize(
    "uri",
    [
        "builtin://iris",
        "configmap://fraud-v1",
        "pvc://claim/dir",
        "s3://bucket/key",
        f"oci://r.example:5000/team/fraud:v1@sha256:{SHA}",
    ],
)
def test_every_kind_of_server_is_accepted(apiserver: Cluster, api_namespace: str, uri: str) -> None:
    apiserver.kubectl("label", "namespace", api_namespace, "pod-security.kubernetes.io/enforce=restricted")
    owner = Owner("fraud", api_namespace, "7f3e")
    model = ModelSource(uri, sha256=SHA, trust="signed")
    revision = Revision("5f1c2e9a", Snapshot(model, "example/server:1", api_keys=ApiKeys("keys")))
    deployment = resources.deployment(owner, revision, signing_keys="PEM")
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fraud"} | template["metadata"]}
    for body in (deployment, resources.service(owner, "5f1c2e9a"), pod | {"spec": template["spec"]}):
        accepted(apiserver, api_namespace, body)


def test_the_router_is_accepted(apiserver: Cluster, api_namespace: str) -> None:
    owner = Owner("fraud", api_namespace, "7f3e")
    deployment = resources.router_deployment(owner, Traffic(), "example/haproxy:1", "0123")
    for body in (deployment, resources.router_service(owner)):
        accepted(apiserver, api_namespace, body)


def accepted(apiserver: Cluster, namespace: str, body: dict[str, Any]) -> None:
    """Apply the body without storing it; unknown fields are errors."""
    arguments = ("--dry-run=server", "--server-side", "--validate=strict", "-f", "-")
    apiserver.kubectl("apply", "-n", namespace, *arguments, input=json.dumps(body))

"""The children of a revision."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from mlmodel_operator.api.schema import Quantity
from mlmodel_operator.api.types import ApiKeys, Autoscaling, Batching, FeedbackKey, Owner, Resources, Revision
from mlmodel_operator.kept import keep_deployment
from mlmodel_operator.resources import autoscaler, deployment, disruption_budget, service
from mlmodel_operator.resources.found import has_page, rehearses
from mlmodel_server.loading import limits
from mlmodel_server.startup import server as server_drain
from tests.unit.operator.resources.cast import IMAGE, OWNER, Body, container, fetcher, pod, restricted, revision

CHILDREN: list[Body] = [
    deployment(OWNER, revision()),
    service(OWNER, "5f1c2e9a"),
    autoscaler(OWNER, "5f1c2e9a", Autoscaling(max_replicas=5), 2),
    disruption_budget(OWNER, "5f1c2e9a"),
]
LABELS = {
    "app.kubernetes.io/managed-by": "mlmodel-operator",
    "app.kubernetes.io/part-of": "mlmodel",
    "app.kubernetes.io/name": "fraud",
    "mlmodel.dev/model": "fraud",
    "mlmodel.dev/component": "server",
    "mlmodel.dev/revision": "5f1c2e9a",
}
DIGEST = "9f2c" * 16
SELECTOR = {key: value for key, value in LABELS.items() if key.startswith("mlmodel.dev/")}


@pytest.mark.parametrize("child", CHILDREN, ids=lambda child: str(child["kind"]))
def test_each_child_is_named_labelled_and_owned(child: Body) -> None:
    metadata = {key: value for key, value in child["metadata"].items() if key != "annotations"}
    assert metadata == {
        "name": "fraud-5f1c2e9a",
        "namespace": "bank",
        "labels": LABELS,
        "ownerReferences": [
            {
                "apiVersion": "mlmodel.dev/v1alpha1",
                "kind": "MLModel",
                "name": "fraud",
                "uid": "7f3e",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def test_the_selectors_find_the_pods_of_the_revision_and_no_others() -> None:
    deploy, svc, _, budget = CHILDREN
    assert deploy["spec"]["template"]["metadata"]["labels"] == LABELS
    assert deploy["spec"]["selector"]["matchLabels"] == svc["spec"]["selector"] == SELECTOR
    assert budget["spec"]["selector"]["matchLabels"] == SELECTOR
    assert pod(deploy)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == SELECTOR


def test_the_deployment_does_not_set_the_number_of_pods() -> None:
    assert "replicas" not in deployment(OWNER, revision())["spec"]


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("uri", ["pvc://claim/dir", "s3://bucket/key", f"oci://r.example/m@sha256:{DIGEST}"])
def test_the_pod_is_restricted(uri: str) -> None:
    assert restricted(pod(deployment(OWNER, revision(uri, serving={"api_keys": ApiKeys("keys")})))) == []
    assert pod(deployment(OWNER, revision()))["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("uri", "digest"), [("configmap://fraud-v7", "fcc5259576f8099d"), ("s3://models/fraud", "a0d0828c97915d65")]
)
def test_the_pod_template_is_the_released_one(uri: str, digest: str) -> None:
    """A changed template applies to the next revision of every model; running pods stay as they are. If the change is
    intended, add it to the changelog, and its new value here."""
    template = json.dumps(deployment(OWNER, revision(uri))["spec"]["template"], sort_keys=True)
    assert hashlib.sha256(template.encode()).hexdigest()[:16] == digest


def test_the_image_is_the_revisions_own() -> None:
    assert container(deployment(OWNER, revision()))["image"] == IMAGE


@pytest.mark.parametrize(
    ("uri", "volume", "mount"),
    [
        ("builtin://iris", None, None),
        ("configmap://fraud-v7", {"configMap": {"name": "fraud-v7"}}, {}),
        ("pvc://models/fraud/7", {"claimName": "models"}, {"subPath": "fraud/7"}),
        ("pvc://models/fraud/7/", {"claimName": "models"}, {"subPath": "fraud/7"}),
        ("pvc://models/", {"claimName": "models"}, {}),
        ("pvc://models", {"claimName": "models"}, {}),
        (
            f"oci://r.example:5000/team/fraud@sha256:{DIGEST}",
            {"image": {"reference": f"r.example:5000/team/fraud@sha256:{DIGEST}", "pullPolicy": "IfNotPresent"}},
            {},
        ),
        (
            "oci://r.example/fraud:v7",
            {"image": {"reference": "r.example/fraud:v7", "pullPolicy": "IfNotPresent"}},
            {},
        ),
    ],
)
def test_the_model_is_mounted_where_it_is_in_the_cluster(uri: str, volume: Any, mount: Any) -> None:
    deploy = deployment(OWNER, revision(uri))
    volumes = [found for found in pod(deploy)["volumes"] if found["name"] == "model"]
    mounts = [found for found in container(deploy)["volumeMounts"] if found["name"] == "model"]
    args = container(deploy)["args"]
    if volume is None:
        assert (volumes, mounts) == ([], [])
        assert "--path" not in args
        return
    if "claimName" in volume:
        volume = {"persistentVolumeClaim": {**volume, "readOnly": True}}
    assert volumes == [{"name": "model", **volume}]
    assert mounts == [{"name": "model", "mountPath": "/mnt/model", "readOnly": True, **mount}]
    assert args[args.index("--path") + 1] == "/mnt/model"


def test_the_server_gets_its_model_as_arguments() -> None:
    deploy = deployment(OWNER, revision("https://x.example/m.skops", version="v7", sha256=DIGEST, format="skops"))
    assert container(deploy)["args"] == [
        *("--name", "fraud", "--uri", "https://x.example/m.skops", "--fetched", "/mnt/model"),
        *("--model-version", "v7", "--revision", "5f1c2e9a", "--sha256", DIGEST),
        *("--format", "skops", "--port", "8080", "--grpc-port", "9000"),
        *("--timeout", "60", "--batch-rows", "64"),
        *("--rehearsal", "/etc/mlmodel/rehearsal/rehearsal", "--rehearsal-requests", "1000"),
        *("--rehearsal-port", "8090"),
    ]
    args = container(deployment(OWNER, revision()))["args"]
    assert "--sha256" not in args
    assert args[args.index("--model-version") + 1] == "5f1c2e9"
    args = container(deployment(OWNER, revision(serving={"batching": Batching(1)})))["args"]
    assert args[args.index("--batch-rows") + 1] == "1"


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("uri", "downloads"),
    [
        *((f"{scheme}://x/m", True) for scheme in ("https", "s3", "gs", "az")),
        *((uri, False) for uri in ("builtin://x", "configmap://x", "pvc://x/m", f"oci://x/m@sha256:{DIGEST}")),
    ],
)
def test_only_the_init_container_that_downloads_has_credentials(uri: str, downloads: bool) -> None:
    deploy = deployment(OWNER, revision(uri, sha256=DIGEST))
    server, spec = container(deploy), pod(deploy)
    assert [mount for mount in server["volumeMounts"] if mount["name"] == "storage"] == []
    assert server.get("env", []) == []
    volumes = [volume for volume in spec["volumes"] if volume["name"] == "storage"]
    if not downloads:
        assert "initContainers" not in spec
        assert volumes == []
        return
    assert volumes == [{"name": "storage", "secret": {"secretName": "mlmodel-storage", "optional": True}}]
    fetch = fetcher(deploy)
    assert fetch["env"] == [{"name": "MLMODEL_STORAGE_CREDENTIALS", "value": "/etc/mlmodel/storage"}]
    assert fetch["volumeMounts"] == [
        {"name": "model", "mountPath": "/mnt/model"},
        {"name": "storage", "mountPath": "/etc/mlmodel/storage", "readOnly": True},
    ]
    assert (fetch["name"], fetch["image"]) == ("fetch", IMAGE)
    assert fetch["args"] == ["--name", "fraud", "--uri", uri, "--sha256", DIGEST, "--fetch-to", "/mnt/model"]
    (model,) = [volume for volume in spec["volumes"] if volume["name"] == "model"]
    size = model["emptyDir"]["sizeLimit"]
    assert int(size.removesuffix("Mi")) << 20 >= limits.MAX_TOTAL + limits.MAX_FILES * 4096
    assert {"name": "model", "mountPath": "/mnt/model", "readOnly": True} in server["volumeMounts"]
    assert server["args"][server["args"].index("--fetched") + 1] == "/mnt/model"
    shared = {mount["name"] for mount in fetch["volumeMounts"]} & {mount["name"] for mount in server["volumeMounts"]}
    assert shared == {"model"}, "what the init container leaves elsewhere, the server cannot read"


def test_a_signed_model_is_fetched_with_all_files() -> None:
    args = fetcher(deployment(OWNER, revision("s3://b/k", sha256=DIGEST, trust="signed"), signing_keys="PEM"))["args"]
    assert args[args.index("--trust") + 1] == "signed"


@pytest.mark.attack(held=True)
def test_a_token_in_the_address_does_not_reach_the_server() -> None:
    deploy = deployment(OWNER, revision("https://x.example/m.skops?token=hush", sha256=DIGEST))
    assert "hush" not in json.dumps(container(deploy))
    assert "https://x.example/m.skops?token=hush" in fetcher(deploy)["args"]


@pytest.mark.attack(held=True)
def test_the_identity_that_a_cloud_gives_to_pods_is_kept_from_the_server() -> None:
    for uri in ("s3://b/k", "configmap://fraud-v7"):
        metadata = deployment(OWNER, revision(uri, sha256=DIGEST))["spec"]["template"]["metadata"]
        assert metadata["annotations"] == {"eks.amazonaws.com/skip-containers": "server"}


def test_the_init_container_requests_no_more_than_the_server() -> None:
    for desired in (Resources(), Resources({"cpu": Quantity("2")}, {"memory": Quantity("1Gi")})):
        deploy = deployment(OWNER, revision("s3://b/k", sha256=DIGEST, serving={"resources": desired}))
        assert fetcher(deploy)["resources"] == container(deploy)["resources"]


HOSTILE = "a$(MLMODEL_SIGNING_KEYS_PEM)$$(HOME)$"


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "found",
    [
        revision(f"s3://b/{HOSTILE}", sha256=DIGEST, trust="signed"),
        revision(f"https://x.example/{HOSTILE}?{HOSTILE}", sha256=HOSTILE),
        revision(f"pvc://claim/{HOSTILE}", version=HOSTILE),
        revision(format=HOSTILE, trust=HOSTILE),
        revision(serving={"files_sha256": HOSTILE, "refresh": HOSTILE}),
    ],
)
def test_no_field_of_a_model_is_replaced_by_a_variable(found: Revision) -> None:
    """Kubelet replaces ``$(NAME)`` in arguments and variables, and ``$$`` by ``$``."""
    deploy = deployment(Owner(HOSTILE, "bank", "1"), found, signing_keys=HOSTILE)
    for item in (*pod(deploy).get("initContainers", []), container(deploy)):
        words = [*item["args"], *(variable["value"] for variable in item.get("env", []))]
        for word in words:
            assert "$" not in word.replace("$$", ""), word
        passed = [word.replace("$$", "$") for word in item["args"]]
        assert passed[passed.index("--name") + 1] == HOSTILE


@pytest.mark.attack(held=True)
def test_api_keys_are_mounted_and_no_pod_starts_without_them() -> None:
    deploy = deployment(OWNER, revision(serving={"api_keys": ApiKeys("fraud-keys")}))
    (volume,) = [volume for volume in pod(deploy)["volumes"] if volume["name"] == "api-keys"]
    assert volume["secret"] == {"secretName": "fraud-keys", "items": [{"key": "keys", "path": "keys"}]}
    (mount,) = [mount for mount in container(deploy)["volumeMounts"] if mount["name"] == "api-keys"]
    args = container(deploy)["args"]
    assert args[args.index("--api-keys") + 1] == f"{mount['mountPath']}/keys"
    assert mount["readOnly"] is True
    assert "subPath" not in mount, "a mount by subPath does not get a changed Secret"
    assert "--api-keys" not in container(deployment(OWNER, revision()))["args"]


def test_the_key_of_prediction_ids_is_mounted_and_no_pod_starts_without_it() -> None:
    serving = {"feedback_key": FeedbackKey("fraud-feedback")}
    deploy = deployment(OWNER, revision(serving=serving))
    (volume,) = [volume for volume in pod(deploy)["volumes"] if volume["name"] == "feedback-key"]
    assert volume["secret"] == {"secretName": "fraud-feedback", "items": [{"key": "key", "path": "key"}]}
    (mount,) = [mount for mount in container(deploy)["volumeMounts"] if mount["name"] == "feedback-key"]
    args = container(deploy)["args"]
    assert args[args.index("--feedback-key") + 1] == f"{mount['mountPath']}/key"
    assert mount["readOnly"] is True
    fetched = deployment(OWNER, revision("s3://b/k", serving=serving))
    assert "feedback-key" not in json.dumps(fetcher(fetched)), "the init container makes no ids"
    assert "feedback" not in json.dumps(deployment(OWNER, revision()))


@pytest.mark.attack(held=True)
def test_no_secret_is_ever_in_the_environment() -> None:
    deploy = deployment(
        OWNER, revision("s3://b/k", trust="signed", serving={"api_keys": ApiKeys("k")}), signing_keys="PEM"
    )
    for item in (fetcher(deploy), container(deploy)):
        assert all(set(entry) == {"name", "value"} for entry in item["env"])
        assert "envFrom" not in item


@pytest.mark.attack(held=True)
def test_trust_beyond_strict_requires_a_right_of_the_operator() -> None:
    def trust_options(trust: str, **rights: Any) -> tuple[list[str], list[Body]]:
        server = container(deployment(OWNER, revision(trust=trust), **rights))
        args = server["args"]
        return args[args.index("--batch-rows") + 2 : args.index("--rehearsal")], server.get("env", [])

    keys = [{"name": "MLMODEL_SIGNING_KEYS_PEM", "value": "PEM"}]
    rights = {"signing_keys": "PEM", "allow_unsafe": True}
    assert trust_options("strict", **rights) == ([], [])
    assert trust_options("signed", **rights) == (["--trust", "signed"], keys)
    assert trust_options("unsafe", **rights) == (["--trust", "unsafe", "--allow-unsafe"], [])
    # Without the right the operator creates no such pod; in one that exists already, the server rejects the model.
    assert trust_options("unsafe") == (["--trust", "unsafe"], [])
    assert trust_options("signed")[1] == [{"name": "MLMODEL_SIGNING_KEYS_PEM", "value": ""}]


def test_a_pod_keeps_requests_for_rehearsals_and_reads_which_candidate_to_rehearse() -> None:
    deploy = deployment(OWNER, revision(), rehearsal_requests=250)
    (port,) = [port for port in container(deploy)["ports"] if port["name"] == "rehearsal"]
    assert port == {"name": "rehearsal", "containerPort": 8090}
    args = container(deploy)["args"]
    assert args[-6:] == [
        *("--rehearsal", "/etc/mlmodel/rehearsal/rehearsal", "--rehearsal-requests", "250"),
        *("--rehearsal-port", "8090"),
    ]
    (mount,) = [item for item in container(deploy)["volumeMounts"] if item["name"] == "rehearsal"]
    assert mount == {"name": "rehearsal", "mountPath": "/etc/mlmodel/rehearsal", "readOnly": True}
    (volume,) = [item for item in pod(deploy)["volumes"] if item["name"] == "rehearsal"]
    # Not a ConfigMap: anyone who may write ConfigMaps could name a candidate, or freeze the file on the node.
    field = {"fieldPath": "metadata.annotations['mlmodel.dev/rehearsal']"}
    items = [{"path": "rehearsal", "fieldRef": field}]
    assert volume == {"name": "rehearsal", "downwardAPI": {"items": items}}
    assert rehearses(deploy)


def test_without_rehearsals_a_pod_has_only_the_page_with_labels() -> None:
    deploy = deployment(OWNER, revision("s3://b/k", serving={"api_keys": ApiKeys("k")}), rehearsal_requests=0)
    server = container(deploy)
    assert server["args"][server["args"].index("--rehearsal-requests") + 1] == "0"
    assert {"name": "rehearsal", "containerPort": 8090} in server["ports"]
    pod = deploy["spec"]["template"]["spec"]
    assert "rehearsal" not in json.dumps([pod["volumes"], server["volumeMounts"]])
    assert has_page(deploy)
    assert not rehearses(deploy)
    assert not has_page({})
    assert not rehearses({})


def test_a_pod_of_an_older_release_has_no_page() -> None:
    deploy = deployment(OWNER, revision("s3://b/k"), rehearsal_requests=0)
    server = deploy["spec"]["template"]["spec"]["containers"][0]
    server["ports"] = [port for port in server["ports"] if port["name"] != "rehearsal"]
    assert not has_page(deploy)
    assert not rehearses(deploy)


def test_a_pod_that_reads_the_candidate_from_a_config_map_rehearses_and_has_no_page_with_labels() -> None:
    deploy = deployment(OWNER, revision("s3://b/k"), rehearsal_requests=250)
    assert has_page(deploy)
    assert has_page(keep_deployment(deploy, None))
    (volume,) = [item for item in pod(deploy)["volumes"] if item["name"] == "rehearsal"]
    del volume["downwardAPI"]
    volume["configMap"] = {"name": "fraud-routes"}
    for found in (deploy, keep_deployment(deploy, None)):
        assert rehearses(found)
        assert not has_page(found)


def test_grpc_has_the_same_name_and_port_everywhere() -> None:
    (port,) = [port for port in service(OWNER, "5f1c2e9a")["spec"]["ports"] if port["name"] == "grpc"]
    assert port == {"name": "grpc", "port": 9000, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"}
    server = container(deployment(OWNER, revision()))
    assert {"name": "grpc", "containerPort": 9000} in server["ports"]
    assert server["args"][server["args"].index("--grpc-port") + 1] == "9000"


@pytest.mark.parametrize(
    ("requests", "limits", "resources"),
    [
        ({}, {}, {"requests": {"cpu": "100m", "memory": "256Mi"}}),
        ({"cpu": "1"}, {}, {"requests": {"cpu": "1", "memory": "256Mi"}}),
        # A limit without a request is also the request; a larger default would be rejected by Kubernetes.
        ({}, {"memory": "128Mi"}, {"requests": {"cpu": "100m"}, "limits": {"memory": "128Mi"}}),
        ({}, {"cpu": "1", "memory": "1Gi"}, {"limits": {"cpu": "1", "memory": "1Gi"}}),
        (
            {"cpu": "1", "memory": "1Gi"},
            {"memory": "2Gi"},
            {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        ),
    ],
)
def test_resources_are_those_of_the_spec_with_defaults(
    requests: dict[str, str], limits: dict[str, str], resources: Body
) -> None:
    desired = Resources(*({name: Quantity(amount) for name, amount in side.items()} for side in (requests, limits)))
    assert container(deployment(OWNER, revision(serving={"resources": desired})))["resources"] == resources


@pytest.mark.parametrize("limit", [1, 60, 600])
def test_the_pause_and_the_drain_fit_into_the_grace_period(limit: int) -> None:
    deploy = deployment(OWNER, revision(), timeout_seconds=limit)
    server = container(deploy)
    pause = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 5
    assert server["args"][server["args"].index("--timeout") + 1] == str(limit)
    # The server answers every request that it has until then, see startup/server.py.
    assert pod(deploy)["terminationGracePeriodSeconds"] >= pause + limit + server_drain.DRAIN_MARGIN + 3


def test_the_time_limit_is_a_minute_by_default() -> None:
    assert deployment(OWNER, revision()) == deployment(OWNER, revision(), timeout_seconds=60)
    assert pod(deployment(OWNER, revision()))["terminationGracePeriodSeconds"] == 75


def test_the_server_requires_the_files_that_the_revision_started_with() -> None:
    pinned = container(deployment(OWNER, revision("configmap://fraud-v7", serving={"files_sha256": DIGEST})))
    assert pinned["args"][pinned["args"].index("--files-sha256") + 1] == DIGEST
    assert "--files-sha256" not in container(deployment(OWNER, revision("configmap://fraud-v7")))["args"]


def test_a_busy_server_is_not_killed_and_a_ready_one_is_detected_soon() -> None:
    server = container(deployment(OWNER, revision()))
    live, startup = server["livenessProbe"], server["startupProbe"]
    ready = server["readinessProbe"]
    assert live["timeoutSeconds"] >= ready["timeoutSeconds"] >= 5
    assert ready["periodSeconds"] * ready["failureThreshold"] >= 20
    assert live["periodSeconds"] * live["failureThreshold"] >= 30
    assert startup["periodSeconds"] == 1
    assert startup["failureThreshold"] >= 600
    assert live["httpGet"]["path"] == "/v2/health/live"
    assert ready["httpGet"]["path"] == startup["httpGet"]["path"] == "/v2/health/ready"


def test_the_autoscaler_scales_its_own_revision_within_its_bounds() -> None:
    spec = autoscaler(OWNER, "5f1c2e9a", Autoscaling(max_replicas=5, min_replicas=1, cpu_percent=70), 3)["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "fraud-5f1c2e9a"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 5)
    assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


def test_a_minimum_above_the_users_maximum_raises_the_maximum() -> None:
    spec = autoscaler(OWNER, "5f1c2e9a", Autoscaling(max_replicas=2), 4)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (4, 4)


def test_equal_inputs_give_equal_bodies_and_no_shared_parts() -> None:
    first, second = (deployment(OWNER, revision("pvc://models/x")) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    first["spec"]["template"]["metadata"]["labels"]["x"] = "y"
    assert second == deployment(OWNER, revision("pvc://models/x"))


def test_another_owner_has_other_children() -> None:
    other = deployment(Owner("spam", "mail", "1"), revision())
    assert other["metadata"]["name"] == "spam-5f1c2e9a"
    assert other["spec"]["selector"]["matchLabels"]["mlmodel.dev/model"] == "spam"

"""Manifests that the API server rejects, with the message that a user reads, and manifests that it accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.cluster import Cluster, ClusterError

SHA = "9f2c" * 16


def manifest(spec: dict[str, Any], name: str = "fraud") -> str:
    """Return an MLModel as JSON, which is valid YAML."""
    return json.dumps(
        {"apiVersion": "mlmodel.dev/v1alpha1", "kind": "MLModel", "metadata": {"name": name}, "spec": spec}
    )


GOOD = {"uri": "configmap://fraud-v1"}

INVALID = {
    "no model": (manifest({}), "model: {uri: configmap://my-model-v1}"),
    "no uri": (manifest({"model": {"version": "v1"}}), "for example `uri: configmap://my-model-v1`"),
    "unknown scheme": (manifest({"model": {"uri": "ftp://a/b"}}), "must be builtin://NAME, configmap://NAME"),
    "path upwards": (
        manifest({"model": {"uri": "pvc://claim/../x"}}),
        "type the whole path, from the root of the claim or bucket",
    ),
    **{
        f"{scheme} without digest": (
            manifest({"model": {"uri": f"{scheme}://a/b"}}),
            "spec.model.sha256 is missing, and https, s3, gs and az require it: type the output of `sha256sum FILE`",
        )
        for scheme in ("https", "s3", "gs", "az")
    },
    "password": (
        manifest({"model": {"uri": "https://me:hush@a/b", "sha256": SHA}}),
        "spec.model.uri has a user name or password",
    ),
    **{
        f"uri with {name}": (
            manifest({"model": {"uri": f"s3://bucket/a{text}b", "sha256": SHA}}),
            "a space, a control character, a character beyond ASCII, or `$(`",
        )
        for name, text in {"space": " ", "escape": "\x1b", "umlaut": "ü", "variable": "$(HOME)"}.items()
    },
    "bucket without a key": (manifest({"model": {"uri": "s3://bucket", "sha256": SHA}}), "s3://BUCKET/KEY"),
    "image without a digest": (
        manifest({"model": {"uri": "oci://r.example/fraud:v1"}}),
        "names an image without its digest: type oci://REGISTRY/REPOSITORY@sha256:DIGEST",
    ),
    "image with half a digest": (
        manifest({"model": {"uri": f"oci://r.example/fraud@sha256:{SHA[:60]}"}}),
        "or oci://REGISTRY/REPOSITORY@sha256:DIGEST",
    ),
    "image without a registry": (manifest({"model": {"uri": "oci://fraud", "sha256": SHA}}), "oci://REGISTRY/"),
    "unknown trust": (manifest({"model": GOOD | {"trust": "yes"}}), 'supported values: "strict", "signed", "unsafe"'),
    "batches of 0 rows": (
        manifest({"model": GOOD, "serving": {"batching": {"maxRows": 0}}}),
        "should be greater than or equal to 1",
    ),
    "too large batches": (
        manifest({"model": GOOD, "serving": {"batching": {"maxRows": 65537}}}),
        "should be less than or equal to 65536",
    ),
    "API keys without a Secret": (
        manifest({"model": GOOD, "serving": {"apiKeys": {}}}),
        "for example `apiKeys: {secretName: fraud-keys}`",
    ),
    "API keys from a path": (
        manifest({"model": GOOD, "serving": {"apiKeys": {"secretName": "../x"}}}),
        "must be the name of a Secret",
    ),
    "a feedback key without a Secret": (
        manifest({"model": GOOD, "serving": {"feedbackKey": {}}}),
        "for example `feedbackKey: {secretName: fraud-feedback}`",
    ),
    "a feedback key from a path": (
        manifest({"model": GOOD, "serving": {"feedbackKey": {"secretName": "/etc/key"}}}),
        "must be the name of a Secret",
    ),
    "digest with prefix": (
        manifest({"model": {"uri": "https://a/b", "sha256": "sha256:" + SHA[:50]}}),
        "64 lower-case hexadecimal digits",
    ),
    "version with a space": (manifest({"model": GOOD | {"version": "v 1"}}), "type for example `version: v7`"),
    "unknown format": (manifest({"model": GOOD | {"format": "sql"}}), 'supported values: "auto", "sklearn", "skops"'),
    "falling weights": (
        manifest({"model": GOOD, "rollout": {"steps": [{"weight": 25}, {"weight": 5}]}}),
        "type for example `steps: [{weight: 5}, {weight: 25}, {weight: 50}]`",
    ),
    "equal weights": (
        manifest({"model": GOOD, "rollout": {"steps": [{"weight": 25}, {"weight": 25}]}}),
        "each weight must be above the one before",
    ),
    "weight 100": (
        manifest({"model": GOOD, "rollout": {"steps": [{"weight": 100}]}}),
        "each weight must be 0 to 99; after the last step the candidate gets all requests, so remove a step of 100",
    ),
    "weight -1": (manifest({"model": GOOD, "rollout": {"steps": [{"weight": -1}]}}), "each weight must be 0 to 99"),
    "requests at a weight of 0": (
        manifest({"model": GOOD, "rollout": {"steps": [{"weight": 0, "minRequests": 5}, {"weight": 5}]}}),
        "type for example `{weight: 0, minSeconds: 600}` or `{weight: 0, pause: true}`",
    ),
    "weight 0 after another": (
        manifest({"model": GOOD, "rollout": {"steps": [{"weight": 5}, {"weight": 0}]}}),
        "each weight must be above the one before",
    ),
    "sticky without a header": (
        manifest({"model": GOOD, "rollout": {"sticky": {}}}),
        "spec.rollout.sticky.header is missing: type the name of a header, for example `sticky: {header: x-user-id}`",
    ),
    **{
        f"sticky by {header!r}": (manifest({"model": GOOD, "rollout": {"sticky": {"header": header}}}), sentence)
        for header, sentence in {
            "X-User-Id": "of lower-case letters, digits, `.`, `_` and `-`: type for example `sticky: {header:",
            "x-user\n": "of lower-case letters, digits, `.`, `_` and `-`",
            "": "of lower-case letters, digits, `.`, `_` and `-`",
            "x" * 65: "may not be more than 64",
            "authorization": "names a credential, a header of the connection, or one that HTTP, gRPC or the router",
            "cookie": "let your gateway set another one",
            "x-mlmodel-version": "let your gateway set another one",
            "grpc-timeout": "let your gateway set another one",
            "transfer-encoding": "let your gateway set another one",
        }.items()
    },
    "match without values": (
        manifest({"model": GOOD, "rollout": {"match": {"header": "x-group"}}}),
        "spec.rollout.match.values is missing: type for example `match: {header: x-group, values: [beta, staff]}`",
    ),
    "match without a header": (
        manifest({"model": GOOD, "rollout": {"match": {"values": ["beta"]}}}),
        "spec.rollout.match.header is missing",
    ),
    **{
        f"match by the value {value!r}": (
            manifest({"model": GOOD, "rollout": {"match": {"header": "x-group", "values": ["beta", value]}}}),
            sentence,
        )
        for value, sentence in {
            "a b": "has a value with a space, a comma or a character beyond printable ASCII: type for example `values:",
            "a,b": "has a value with a space, a comma",
            "a\nopen": "has a value with a space, a comma",
            "ü": "has a value with a space, a comma",
            "": "at least 1",
            "x" * 65: "may not be more than 64",
        }.items()
    },
    "match by 21 values": (
        manifest({"model": GOOD, "rollout": {"match": {"header": "x-group", "values": ["beta"] * 21}}}),
        "must have at most 20 items",
    ),
    "replicas and autoscaling": (
        manifest({"model": GOOD, "serving": {"replicas": 2, "autoscaling": {"maxReplicas": 3}}}),
        "keep `replicas: N` for a fixed number of pods, or `autoscaling: {maxReplicas: N}`",
    ),
    "minimum above maximum": (
        manifest({"model": GOOD, "serving": {"autoscaling": {"minReplicas": 5, "maxReplicas": 3}}}),
        "lower minReplicas or raise maxReplicas",
    ),
    "limit below request": (
        manifest(
            {
                "model": GOOD,
                "serving": {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}},
            }
        ),
        "limits.memory is below requests.memory: raise limits.memory or lower requests.memory",
    ),
    "unknown resource": (
        manifest({"model": GOOD, "serving": {"resources": {"limits": {"ram": "1Gi"}}}}),
        "has a key other than cpu and memory: type for example `limits: {cpu: 500m, memory: 512Mi}`",
    ),
    "no replicas": (manifest({"model": GOOD, "serving": {"replicas": 0}}), "should be greater than or equal to 1"),
    "name too long": (manifest({"model": GOOD}, "a" * 41), "at most 40 characters"),
    "name with a digit first": (manifest({"model": GOOD}, "1a"), "must start with a letter"),
    "unknown field": (manifest({"model": GOOD, "image": "evil"}), 'unknown field "spec.image"'),
    "unknown metric": (
        manifest({"model": GOOD, "rollout": {"gates": {"quality": {"metric": "f1"}}}}),
        "must be accuracy (for classes) or within (for numbers): type for example",
    ),
    "metric within without a tolerance": (
        manifest({"model": GOOD, "rollout": {"gates": {"quality": {"metric": "within"}}}}),
        "type for example `quality: {metric: within, within: 0.5}`",
    ),
    "tolerance for classes": (
        manifest({"model": GOOD, "rollout": {"gates": {"quality": {"within": 0.5}}}}),
        "for the metric within only: type for example",
    ),
    "tolerance of 0": (
        manifest({"model": GOOD, "rollout": {"gates": {"quality": {"metric": "within", "within": 0}}}}),
        "must be 0.000000001 to 1000000000: type for example `within: 0.5`",
    ),
    "drop in percent": (
        manifest({"model": GOOD, "rollout": {"gates": {"quality": {"maxDrop": 2}}}}),
        "maxDrop is a fraction, 0.001 to 0.5: type for example `maxDrop: 0.02` for two percentage points",
    ),
    "gate of 0 percent": (
        manifest({"model": GOOD, "rollout": {"gates": {"errors": {"maxPercent": 0}}}}),
        "must be 0.1 to 50: type for example `maxPercent: 1`",
    ),
}


def rejection(apiserver: Cluster, text: str) -> str:
    """Return the error of ``kubectl apply`` for a manifest that is rejected."""
    with pytest.raises(ClusterError) as caught:
        apiserver.kubectl("apply", "--dry-run=server", "-f", "-", input=text)
    return str(caught.value)


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_manifest_is_rejected_with_what_to_type(apiserver: Cluster, crd: None, kind: str) -> None:
    text, sentence = INVALID[kind]
    error = rejection(apiserver, text)
    print(error)
    assert sentence in error.replace('\\"', '"')
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "spec",
    [
        {"model": GOOD},
        {"model": {"uri": "builtin://iris"}},
        {"model": {"uri": "pvc://models/fraud/7"}},
        {"model": {"uri": "https://example.com/fraud/mlmodel.json", "sha256": SHA, "format": "skops"}},
        {"model": {"uri": "s3://models/fraud/7/", "sha256": SHA, "format": "onnx"}},
        {"model": {"uri": "gs://models/fraud.skops", "sha256": SHA}},
        {"model": {"uri": "az://models/fraud/mlmodel.json", "sha256": SHA, "trust": "unsafe"}},
        {"model": {"uri": f"oci://registry.example:5000/team/fraud@sha256:{SHA}", "trust": "signed"}},
        {"model": {"uri": f"oci://localhost:5000/fraud:v1@sha256:{SHA}"}},
        {"model": {"uri": "oci://registry.example/fraud:v1", "sha256": SHA}},
        {"model": GOOD, "serving": {"batching": {"maxRows": 65536}, "apiKeys": {"secretName": "fraud-keys"}}},
        {"model": GOOD, "serving": {"feedbackKey": {"secretName": "fraud-feedback"}}},
        {"model": GOOD, "serving": {"autoscaling": {"maxReplicas": 3}}},
        {"model": GOOD, "serving": {"resources": {"requests": {"cpu": 1, "memory": "1.5Gi"}, "limits": {"cpu": 2}}}},
        {"model": GOOD, "rollout": {"steps": [{"weight": 1, "minRequests": 100, "minSeconds": 10}], "paused": True}},
        {"model": GOOD, "rollout": {"steps": [{"weight": 0, "pause": True}, {"weight": 5, "pause": True}]}},
        {"model": GOOD, "rollout": {"rehearsal": {"requests": 0}, "onNoEvidence": "Proceed"}},
        {"model": GOOD, "rollout": {"rehearsal": {"requests": 10_000}, "onNoEvidence": "Hold"}},
        {
            "model": GOOD,
            "rollout": {
                "steps": [{"weight": 0, "minRequests": 0, "minSeconds": 600}],
                "sticky": {"header": "x-amzn-oidc.identity_1"},
                "match": {"header": "x-group", "values": ["beta", "a-b=c", "!~"]},
            },
        },
    ],
)
def test_a_valid_manifest_is_accepted(apiserver: Cluster, crd: None, spec: dict[str, Any]) -> None:
    apiserver.kubectl("apply", "--dry-run=server", "-f", "-", input=manifest(spec))


def test_explain_has_a_sentence_for_every_field(apiserver: Cluster, crd: None) -> None:
    output = " ".join(apiserver.kubectl("explain", "mlmodel.spec", "--recursive=false").split())  # it wraps lines
    assert "Model to serve. A change makes a new revision, which is rolled out. Required." in output
    output = " ".join(apiserver.kubectl("explain", "mlmodel.spec.rollout.bakeSeconds").split())
    assert "after the candidate has got all requests. Default: 60." in output

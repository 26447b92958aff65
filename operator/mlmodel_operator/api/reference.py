"""The reference page of the MLModel, generated from the API types: ``python -m mlmodel_operator.api.reference``."""

from __future__ import annotations

from typing import Any

from mlmodel_operator.api.crd import crd
from mlmodel_operator.api.reasons import Reason

_HEAD = """# MLModel

Generated from `operator/mlmodel_operator/api` by `make generate`; `kubectl explain mlmodel.spec` shows it too.

`apiVersion: mlmodel.dev/v1alpha1`, `kind: MLModel`, short name `mlm`. The name has at most 40 characters. Only
`spec.model.uri` is required. A change of `spec.model`, or of `resources`, `batching`, `apiKeys`, `feedbackKey` or
`refresh` in `spec.serving`, makes a new revision, which is rolled out. Any other change takes effect at once and
restarts no pod, except that a change of `spec.traffic.router.resources` replaces the router pods one by one.

"""

_SOURCES = """
## Where a model comes from

| `spec.model.uri` | `sha256` | how the model gets into the pod |
|---|---|---|
| `builtin://NAME` | | the server image contains it |
| `configmap://NAME` | optional | mounted; a package of at most 1 MiB |
| `pvc://CLAIM/PATH` | optional | mounted read-only; nothing in the claim changes |
| `oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]` | required without the digest | the node pulls and mounts it |
| `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `az://CONTAINER/KEY`, `https://HOST/PATH` | required | an init container |

`sha256` is the digest of the file or archive, of `mlmodel.json` for a package, or of a
[directory](server.md#where-models-come-from).

An image has the files of the model at its root: `FROM scratch` and `COPY model/ /` make one. Mounting it requires
Kubernetes 1.35 or newer. The node pulls it with its own credentials, or with the `imagePullSecrets` of the service
account `default` of the namespace.

Downloads may require credentials. Put them into a Secret `mlmodel-storage` in the namespace of the model, with keys
named like the [variables of the store](server.md#where-models-come-from). Only the init container `fetch` mounts it. It
writes the files of the model into a volume of the pod and exits before the server, which has no credentials, opens
them. The operator reads no Secret.

```sh
kubectl create secret generic mlmodel-storage --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…
```

## Trust

| `spec.model.trust` | what the server opens | required option of the operator |
|---|---|---|
| `strict` | files that cannot run code: skops, ONNX, …, and joblib through an exact allow-list | |
| `signed` | any format, if a known key has signed all files and the name (`model.sig`) | `--signing-keys FILE` |
| `unsafe` | any file; it may run any code in its pod | `--allow-unsafe-models` |

Without that option the operator does not start the model: `Stalled` is True with the reason `TrustNotAllowed`, and
stable continues to serve. An administrator adds the option to the container of the operator:
`args: [--signing-keys, /etc/mlmodel/signing/keys.pem]`, with a ConfigMap of public keys (PEM, one after the other)
mounted there. The operator passes the keys to the pods. A change of these options applies to new revisions; running
pods stay as they are.

## API keys

```sh
KEY=$(openssl rand -hex 24)
kubectl create secret generic fraud-keys --from-literal=keys="alice: $(printf %s "$KEY" | sha256sum | cut -d' ' -f1)"
```

With `spec.serving.apiKeys: {secretName: fraud-keys}` the server requires `Authorization: Bearer KEY` for predictions
and metadata. The Secret has only hashes; without it no pod starts. A changed Secret takes effect within a minute or
two, without a restart.

Give the keys to the clients first: a server that requires none ignores them. During the rollout, clients without a key
get 401 from the candidate. That counts as an error of the candidate, so the operator rolls it back.

The routers check the keys too, before a request reaches a pod; while a rollout changes the Secret, only the pods do.

## Key of prediction ids

```sh
kubectl create secret generic fraud-feedback --from-literal=key="$(openssl rand -hex 32)"
```

With `spec.serving.feedbackKey: {secretName: fraud-feedback}` only the pods of the model can make prediction ids, so no
one scores predictions that it never made. Without the Secret no pod starts. Stable and candidate that name the same
Secret score each other's ids: see [feedback](../how-to/feedback.md#protect-the-ids) for a change of it.

## TLS

With `spec.traffic.tls: {secretName: fraud-tls}` the routers serve HTTP over TLS on port 443 of the Service `NAME`, and
gRPC over TLS on port 9443. Ports 80 and 9000 then reject requests that are not probes, unless `allowPlainText` is
true. The operator does not read the Secret; the routers report a certificate that they cannot use
(`CertificateRejected`). [How to use TLS](../how-to/api-keys-and-tls.md#serve-with-tls-in-the-cluster).
"""

_CONDITIONS = """
## Conditions

| condition | True when | otherwise |
|---|---|---|
| `Ready` | the desired revision serves with all its pods | Unknown during a rollout, else False |
| `Available` | a version answers at `status.url` | False |
| `Reconciling` | the operator works towards the spec (kstatus) | False |
| `Stalled` | the operator cannot continue until you change what the message names (kstatus) | False |
| `RolledBack` | the desired revision was rolled back or rejected, for the reason in the condition | False |
| `Paused` | `spec.rollout.paused` is true | False |

## Reasons

The machine-readable reasons of conditions, Events and `status.rejected`.

| reason | meaning | what to do |
|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    sections = [_HEAD]
    for part in ("spec", "status"):
        sections.append(f"## {part}\n\n| field | type | description |\n|---|---|---|\n")
        sections += [f"| `{path}` | {kind} | {text} |\n" for path, kind, text in _rows(part, properties[part])]
        sections.append("\n")
    reasons = "".join(f"| `{reason}` | {reason.meaning} | {reason.action} |\n" for reason in sorted(Reason))
    return "".join(sections).rstrip("\n") + "\n" + _SOURCES + _CONDITIONS + reasons


def _rows(path: str, schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        field_path = f"{path}.{name}"
        item = field.get("items", {})
        kind = field.get("type", "quantity")
        if "enum" in field:
            kind = " or ".join(field["enum"])
        elif item:
            kind = f"list of {item.get('type', 'quantity')}"
        rows.append((field_path, kind, field.get("description", "").replace("|", r"\|")))
        if item.get("properties"):
            rows += _rows(f"{field_path}[]", item)
        elif field.get("properties") and not field_path.endswith(".snapshot"):
            rows += _rows(field_path, field)
    return rows


if __name__ == "__main__":
    print(page(), end="")

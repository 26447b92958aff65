"""The reference page of the MLModel, generated from the API types: ``python -m mlmodel_operator.api.reference``."""

from __future__ import annotations

from typing import Any

from mlmodel_operator.api.crd import crd
from mlmodel_operator.api.reasons import Reason

_HEAD = """# MLModel

Generated from `operator/mlmodel_operator/api` by `make generate`; `kubectl explain mlmodel.spec` shows it too.

`apiVersion: mlmodel.dev/v1alpha1`, `kind: MLModel`, short name `mlm`. The name has at most 40 characters. Only
`spec.model.uri` is required. What a pod is started with makes its revision: a change below `spec.model`, or of
`resources`, `batching` or `apiKeys` below `spec.serving`, is a new one and is rolled out. Everything else takes effect
at once and restarts nothing.

"""

_SOURCES = """
## Where a model comes from

| `spec.model.uri` | `sha256` | how it gets into the pod |
|---|---|---|
| `builtin://NAME` | | it is in the server image |
| `configmap://NAME` | optional | mounted; a package of at most 1 MiB |
| `pvc://CLAIM/PATH` | optional | mounted read-only; nothing in the claim is changed |
| `oci://REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]` | required without the digest | the node pulls and mounts it |
| `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `az://CONTAINER/KEY`, `https://HOST/PATH` | required | fetched by the server |

`sha256` is that of the file, or of `mlmodel.json` for a package, which lists the digest of every other file.

An image holds the model's files at its root: `FROM scratch` and `COPY model/ /` make one. Mounting it takes Kubernetes
1.35 or newer. It is pulled with the node's credentials, or with the `imagePullSecrets` of the namespace's `default`
service account.

What the server fetches may need credentials. They are in a Secret `mlmodel-storage` in the model's namespace, with keys
named like the environment variables that other tools read, and reach the server as files. The operator reads no Secret.

```sh
kubectl create secret generic mlmodel-storage --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…
```

## Trust

| `spec.model.trust` | what is opened | the operator was started with |
|---|---|---|
| `strict` | what cannot run code: skops, ONNX, …, and joblib through an exact allow-list | |
| `signed` | any format, if `model.sig` beside it is a known key's signature over all files | `--signing-keys FILE` |
| `unsafe` | anything; the file may run any code in its pod | `--allow-unsafe-models` |

Without the right, such a model is not started: `Stalled` is true with the reason `TrustNotAllowed`, and the version
before goes on serving. Rights are arguments of the operator's container, which an administrator adds to its Deployment:
`args: [--signing-keys, /etc/mlmodel/signing/keys.pem]`, with a ConfigMap of public keys (PEM, one after the other)
mounted there; the operator hands them to the pods. Other rights or keys count for new revisions; pods that run stay.

## API keys

```sh
KEY=$(openssl rand -hex 24)
kubectl create secret generic fraud-keys --from-literal=keys="alice: $(printf %s "$KEY" | sha256sum | cut -d' ' -f1)"
```

With `spec.serving.apiKeys: {secretName: fraud-keys}` predictions need `Authorization: Bearer KEY`. The Secret holds
hashes only; without it no pod starts. A changed one takes effect in a minute or two, without a restart.

Give the keys to callers first: a server that asks for none ignores them. While keys are rolled out, callers without one
get 401 from the new version; that counts as its errors, so it is rolled back.
"""

_CONDITIONS = """
## Conditions

| condition | true when | else |
|---|---|---|
| `Ready` | what the spec asks for serves, with all its pods | `Unknown` in a rollout, `False` after a rollback |
| `Available` | some version answers at `status.url` | |
| `Reconciling` | something is on its way (kstatus) | |
| `Stalled` | it cannot go on without a change of the spec, or of the operator's rights (kstatus) | |
| `RolledBack` | the version in the spec was rolled back; the reason is beside it | |
| `Paused` | `spec.rollout.paused` is set | |

## Reasons

The machine-readable reasons of conditions, Events and `status.rejected`.

| reason | meaning | what to do |
|---|---|---|
"""


def page() -> str:
    """The page as Markdown."""
    properties = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    sections = [_HEAD]
    for part in ("spec", "status"):
        sections.append(f"## {part}\n\n| field | type | |\n|---|---|---|\n")
        sections += [f"| `{path}` | {kind} | {text} |\n" for path, kind, text in _rows(part, properties[part])]
        sections.append("\n")
    reasons = "".join(f"| `{reason}` | {reason.meaning} | {reason.action} |\n" for reason in sorted(Reason))
    return "".join(sections).rstrip("\n") + "\n" + _SOURCES + _CONDITIONS + reasons


def _rows(path: str, schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        item = field.get("items", {})
        kind = field.get("type", "quantity")
        if "enum" in field:
            kind = " or ".join(field["enum"])
        elif item:
            kind = f"list of {item.get('type', 'quantity')}"
        rows.append((here, kind, field.get("description", "").replace("|", r"\|")))
        if item.get("properties"):
            rows += _rows(f"{here}[]", item)
        elif field.get("properties") and not here.endswith(".snapshot"):
            rows += _rows(here, field)
    return rows


if __name__ == "__main__":
    print(page(), end="")

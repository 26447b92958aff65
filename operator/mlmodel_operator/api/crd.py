"""The CustomResourceDefinition, generated from the API types.

``python -m mlmodel_operator.api.crd > crds/mlmodels.yaml`` writes it; `make check` fails when the file differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import yaml

from mlmodel_operator.api.codec import schema
from mlmodel_operator.api.schema import Doc
from mlmodel_operator.api.status import Status
from mlmodel_operator.api.types import MAX_NAME, Spec
from mlmodel_operator.names import CRD, GROUP, KIND, PART_OF_LABEL, PLURAL, PROJECT, VERSION

_HEADER = "# Generated from operator/mlmodel_operator/api by `make generate`. Do not edit.\n"

_READY = '.status.conditions[?(@.type=="Ready")]'

_COLUMNS = (
    ("Phase", "string", ".status.phase", "Phase of the rollout; Stable outside a rollout.", 0),
    ("Ready", "string", f"{_READY}.status", "Whether the desired revision serves with all its pods.", 0),
    ("Stable", "string", ".status.stable.version", "Version that serves.", 0),
    ("Candidate", "string", ".status.candidate.version", "Version that is being rolled out.", 0),
    ("Weight", "integer", ".status.candidate.weight", "Percentage of the requests that the candidate gets.", 0),
    ("Replicas", "string", ".status.replicas", "Number of ready and desired pods of stable.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the MLModel was created.", 0),
    ("Reason", "string", f"{_READY}.reason", "Machine-readable reason of the condition Ready.", 1),
    ("Digest", "string", ".status.stable.digest", "Digest of the model that serves, or of its image.", 1),
    ("URL", "string", ".status.url", "Address for predictions inside the cluster.", 1),
)


@dataclass(frozen=True)
class _Root:
    """A machine-learning model to serve; its new versions are rolled out by canary on statistical evidence."""

    spec: Annotated[Spec, Doc("Desired state of the MLModel. Required.")]


_SCALE = {
    "specReplicasPath": ".spec.serving.replicas",
    "statusReplicasPath": ".status.stable.replicas",
    "labelSelectorPath": ".status.selector",
}


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a JSON object."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": text}
        | ({"priority": priority} if priority else {})
        for name, kind, path, text, priority in _COLUMNS
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD, "labels": {PART_OF_LABEL: PROJECT}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["mlm"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": _SCALE},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": _root_schema()},
                }
            ],
        },
    }


def _root_schema() -> dict[str, Any]:
    """Return the schema of the whole object."""
    root = schema(_Root)
    root["properties"]["status"] = _keep_unknown_fields(schema(Status, with_rules=False))
    root["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **root["properties"],
    }
    # Only the operator writes status, so that it has no further rules; conditions are a standard map, to which other
    # tools may apply theirs.
    root["properties"]["status"]["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    root["x-kubernetes-validations"] = [
        {
            "rule": f"self.metadata.name.size() <= {MAX_NAME}"
            " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "message": "metadata.name must start with a letter, consist of lower-case letters, digits and `-`, and have"
            f" at most {MAX_NAME} characters, because it names the Service: type for example `name: fraud`",
        }
    ]
    return root


def crd_problem(installed: Mapping[str, Any]) -> str:
    """Return why this operator cannot work with the CustomResourceDefinition in the cluster, empty if it can.

    An older one drops the fields of ``status`` that it does not know, and with them the state of a rollout.
    """
    for version in (installed.get("spec") or {}).get("versions") or []:
        if version.get("name") == VERSION:
            field = (version.get("schema") or {}).get("openAPIV3Schema") or {}
            for name in ("status", "formatVersion"):
                field = (field.get("properties") or {}).get(name) or {}
            if field:
                return ""
    return (
        f"the CustomResourceDefinition {CRD} in the cluster is older than this operator:"
        " type `kubectl apply -f crds/mlmodels.yaml`"
    )


def _keep_unknown_fields(field: dict[str, Any]) -> dict[str, Any]:
    """Return ``field`` as a schema in which every object preserves unknown fields.

    The operator and its CRD are upgraded at different times, and neither order may lose a field of a status.
    """
    open_field = dict(field)
    if "properties" in field:
        open_field["properties"] = {name: _keep_unknown_fields(inner) for name, inner in field["properties"].items()}
        open_field["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in field:
        open_field["items"] = _keep_unknown_fields(field["items"])
    return open_field


def text() -> str:
    """Return the CustomResourceDefinition as YAML, as committed in ``crds/``."""
    return _HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120)


if __name__ == "__main__":
    print(text(), end="")

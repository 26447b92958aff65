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

_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the rollout is.", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether the spec is what is served.", 0),
    ("Stable", "string", ".status.stable.version", "The version that answers.", 0),
    ("Candidate", "string", ".status.candidate.version", "The version that is being rolled out.", 0),
    ("Weight", "integer", ".status.candidate.weight", "Percentage of requests that the candidate gets.", 0),
    ("Replicas", "string", ".status.replicas", "Ready and desired pods of stable.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not.", 1),
    ("Digest", "string", ".status.stable.digest", "Digest of the model that answers.", 1),
    ("URL", "string", ".status.url", "Where the model answers.", 1),
)


@dataclass(frozen=True)
class _Root:
    """A machine-learning model that is served, and whose new versions are rolled out by canary on evidence."""

    spec: Annotated[Spec, Doc("What is wanted.")]


_SCALE = {
    "specReplicasPath": ".spec.serving.replicas",
    "statusReplicasPath": ".status.stable.replicas",
    "labelSelectorPath": ".status.selector",
}


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a JSON object."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path}
        | ({"description": text} if text else {})
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
    # The status is as open as its writer is trusted; only conditions follow the standard's list type, so that other
    # tools may apply conditions too.
    root["properties"]["status"]["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    root["x-kubernetes-validations"] = [
        {
            "rule": f"self.metadata.name.size() <= {MAX_NAME}"
            " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "message": "metadata.name must start with a letter, have only lower-case letters, digits and `-`, and at"
            f" most {MAX_NAME} characters, because it names the Service: type for example `name: fraud`",
        }
    ]
    return root


def crd_problem(found: Mapping[str, Any]) -> str:
    """Return why this operator cannot work with the CustomResourceDefinition ``found`` in the cluster, empty if it can.

    An older one drops the fields of ``status`` that it does not know, and with them the state of a rollout.
    """
    for version in (found.get("spec") or {}).get("versions") or []:
        if version.get("name") == VERSION:
            place = (version.get("schema") or {}).get("openAPIV3Schema") or {}
            for name in ("status", "formatVersion"):
                place = (place.get("properties") or {}).get(name) or {}
            if place:
                return ""
    return (
        f"the CustomResourceDefinition {CRD} in the cluster is older than this operator:"
        " type `kubectl apply -f crds/mlmodels.yaml`"
    )


def _keep_unknown_fields(field: dict[str, Any]) -> dict[str, Any]:
    """Let every object in ``field`` keep what this schema does not know.

    The operator and its CRD are upgraded at different times, and neither order may lose a field of a status.
    """
    kept = dict(field)
    if "properties" in field:
        kept["properties"] = {name: _keep_unknown_fields(inner) for name, inner in field["properties"].items()}
        kept["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in field:
        kept["items"] = _keep_unknown_fields(field["items"])
    return kept


def text() -> str:
    """The CustomResourceDefinition as YAML, as committed in ``crds/``."""
    return _HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120)


if __name__ == "__main__":
    print(text(), end="")

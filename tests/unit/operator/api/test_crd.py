"""The CustomResourceDefinition: what it keeps of a status, scaling, and which of them the operator can work with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from mlmodel_operator.api.crd import crd, crd_problem

PRESERVE = "x-kubernetes-preserve-unknown-fields"


def properties() -> dict[str, Any]:
    """Schemas of ``spec`` and ``status``."""
    found: dict[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def objects(path: str, field: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object with named fields."""
    if "properties" in field:
        yield path, field
    for name, inner in field.get("properties", {}).items():
        yield from objects(f"{path}.{name}", inner)
    if isinstance(field.get("items"), dict):
        yield from objects(f"{path}[]", field["items"])


def test_no_object_of_a_status_loses_fields_that_this_release_does_not_know() -> None:
    found = dict(objects("status", properties()["status"]))
    assert {"status", "status.candidate.evidence", "status.draining[]", "status.stable.snapshot.model"} <= found.keys()
    assert [path for path, field in found.items() if field.get(PRESERVE) is not True] == []


def test_a_spec_keeps_nothing_unknown() -> None:
    assert [path for path, field in objects("spec", properties()["spec"]) if PRESERVE in field] == []


def test_the_inside_of_the_statistics_is_no_part_of_the_api() -> None:
    evidence = properties()["status"]["properties"]["candidate"]["properties"]["evidence"]["properties"]
    assert evidence["state"]["type"] == "string"
    assert evidence.keys() == {"candidate", "stable", "against", "certifiedPercent", "at", "state"}


def test_no_field_of_a_status_is_a_list_of_numbers() -> None:
    for path, field in objects("status", properties()["status"]):
        for name, inner in field["properties"].items():
            if inner["type"] == "array":
                assert inner["items"]["type"] == "object", f"{path}.{name}"


def test_scaling_reads_and_writes_fields_that_exist() -> None:
    scale = crd()["spec"]["versions"][0]["subresources"]["scale"]
    kinds = {}
    for name, path in scale.items():
        field: dict[str, Any] = {"properties": properties()}
        for part in path.strip(".").split("."):
            field = field["properties"][part]
        kinds[name] = field["type"]
    assert kinds == {"specReplicasPath": "integer", "statusReplicasPath": "integer", "labelSelectorPath": "string"}


def test_a_definition_that_knows_the_format_is_no_problem() -> None:
    assert crd_problem(crd()) == ""


def without_format() -> dict[str, Any]:
    """The definition of a release that did not know ``status.formatVersion``."""
    body = copy.deepcopy(crd())
    (version,) = body["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["formatVersion"]
    return body


@pytest.mark.parametrize(
    "body",
    [
        without_format(),
        {},
        {"spec": None},
        {"spec": {"versions": [{"name": "v1alpha1"}]}},
        {"spec": {"versions": [crd()["spec"]["versions"][0] | {"name": "v0"}]}},
    ],
)
def test_an_older_definition_is_named_with_what_to_type(body: dict[str, Any]) -> None:
    problem = crd_problem(body)
    assert "mlmodels.mlmodel.dev in the cluster is older than this operator" in problem
    assert "kubectl apply -f crds/mlmodels.yaml" in problem

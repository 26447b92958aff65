"""The CustomResourceDefinition: descriptions, unknown fields of a status, scaling, and its version in the cluster."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from mlmodel_operator.api.codec import decode, encode
from mlmodel_operator.api.crd import crd, crd_problem
from mlmodel_operator.api.types import ModelSource, Spec

PRESERVE = "x-kubernetes-preserve-unknown-fields"
SMALLEST = {
    "model": {"uri": "builtin://iris"},
    "serving": {"autoscaling": {"maxReplicas": 3}, "apiKeys": {"secretName": "keys"}},
    "rollout": {
        "steps": [{"weight": 5}],
        "sticky": {"header": "x-user-id"},
        "match": {"header": "x-group", "values": ["beta"]},
    },
}
"""A spec with every part and only its required fields."""
BOUNDS_IN_A_RULE = {
    "spec.rollout.steps[].weight": (0, 99),
    "spec.rollout.gates.errors.maxPercent": (0.1, 50),
    "spec.rollout.gates.latency.maxIncreasePercent": (1, 1000),
    "spec.rollout.gates.latency.maxMilliseconds": (0.1, 600_000),
    "spec.rollout.gates.agreement.minPercent": (0, 100),
}


def uri_is_valid(uri: str) -> bool:
    """Whether the rules permit the URI. CEL and Python read the patterns alike, but for `$` before a newline."""
    patterns = [
        (bool(found[1]), re.sub(r"\$$", r"\\Z", found[2]))
        for rule in ModelSource.rules
        for found in re.finditer(r"(!)?self\.uri\.matches\('([^']*)'\)", rule.rule)
        if "self.sha256" not in rule.rule
    ]
    assert len(patterns) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python about `[[]`, which both read as a bracket
        return "$(" not in uri and all(bool(re.search(text, uri)) != negated for negated, text in patterns)


@pytest.mark.parametrize(
    "uri",
    [
        "https://models.example:8443/a/b%20c.skops?token=a@b&x=1",
        "https://[2001:db8::1]/m.skops",
        "s3://models/fraud/7/",
        "s3://models/a@b/$x",
        "pvc://claim/a/b@c",
        "pvc://claim",
        "az://models/mlmodel.json",
        f"oci://registry.example:5000/team/fraud@sha256:{'9f2c' * 16}",
    ],
)
def test_an_address_of_printable_ascii_is_valid(uri: str) -> None:
    assert uri_is_valid(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:hush@models.example/m.skops",
        "https://me@models.example/m.skops",
        "s3://me:hush@models/fraud",
        "oci://me:hush@registry.example/fraud:v1",
        "https://models.example/a b",
        "https://models.example\x00/m",
        "s3://models/fraud\n",
        "s3://models/\x1b[31m",
        "s3://models/für",
        "pvc://claim/a\u202eb",
        "pvc://claim/a//b",
        "s3://models/$(MLMODEL_SIGNING_KEYS_PEM)",
        "pvc://claim/$(HOME)",
        "https:///m",
    ],
)
def test_an_address_with_a_password_a_variable_or_another_character_is_not(uri: str) -> None:
    assert not uri_is_valid(uri)


def properties() -> dict[str, Any]:
    """Return the schemas of ``spec`` and ``status``."""
    found: dict[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return found


def fields(path: str, field: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field with its path, ``field`` first."""
    yield path, field
    for name, inner in field.get("properties", {}).items():
        yield from fields(f"{path}.{name}", inner)
    if isinstance(field.get("items"), dict):
        yield from fields(f"{path}[]", field["items"])


def objects(path: str, field: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object with named fields."""
    return ((inner_path, inner) for inner_path, inner in fields(path, field) if "properties" in inner)


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value in JSON data that is not an object or a list, with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(f"{path}.{name}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(f"{path}[]", inner)
    else:
        yield path, value


DESCRIPTIONS = {path: field.get("description", "") for path, field in fields("spec", properties()["spec"])}
# An item of a list of texts is described with the list.
DESCRIPTIONS |= {path: DESCRIPTIONS[path.removesuffix("[]")] for path, text in DESCRIPTIONS.items() if not text}
REQUIRED = {path for path, _ in leaves("spec", SMALLEST)}
DEFAULTS = {
    path: value for path, value in leaves("spec", encode(decode(Spec, SMALLEST, "spec"))) if path not in REQUIRED
}


def bounds(field: dict[str, Any]) -> tuple[float, float] | None:
    """Return the bounds of a number, or of the length of a list."""
    for low, high in (("minimum", "maximum"), ("minItems", "maxItems")):
        if low in field and high in field:
            return field[low], field[high]
    return None


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_has_a_description_of_whole_sentences(part: str) -> None:
    # An item of a list of texts is described with the list.
    described = ((path, field) for path, field in fields(part, properties()[part]) if not path.endswith("[]"))
    found = {path: field.get("description", "") for path, field in described}
    assert len(found) > 30
    assert [path for path, text in found.items() if not text[:1].isupper() or not text.endswith(".")] == []


def test_a_description_gives_the_bounds_of_its_field() -> None:
    found = {path: limits for path, field in fields("spec", properties()["spec"]) if (limits := bounds(field))}
    assert {"spec.rollout.steps", "spec.rollout.bakeSeconds", *BOUNDS_IN_A_RULE} <= found.keys() | BOUNDS_IN_A_RULE
    for path, (low, high) in (found | BOUNDS_IN_A_RULE).items():
        assert f" {low:.15g} to {high:.15g}" in DESCRIPTIONS[path], path


def test_a_description_gives_the_longest_text() -> None:
    found = {path: field["maxLength"] for path, field in fields("spec", properties()["spec"]) if "maxLength" in field}
    assert "spec.model.version" in found
    assert [path for path, length in found.items() if f" {length} " not in DESCRIPTIONS[path]] == []


@pytest.mark.parametrize("path", DEFAULTS)
def test_a_description_gives_the_default_of_its_field(path: str) -> None:
    value = DEFAULTS[path]
    text = str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else f"{value:g}"
    assert DESCRIPTIONS[path].endswith(f"Default: {text}.")


@pytest.mark.parametrize("path", sorted(REQUIRED))
def test_a_description_says_that_its_field_is_required(path: str) -> None:
    assert DESCRIPTIONS[path].endswith("Required.")


def test_no_object_of_a_status_loses_fields_that_this_release_does_not_know() -> None:
    found = dict(objects("status", properties()["status"]))
    assert {"status", "status.candidate.evidence", "status.draining[]", "status.stable.snapshot.model"} <= found.keys()
    assert [path for path, field in found.items() if field.get(PRESERVE) is not True] == []


def test_a_spec_preserves_no_unknown_field() -> None:
    assert [path for path, field in objects("spec", properties()["spec"]) if PRESERVE in field] == []


def test_the_state_of_the_statistics_is_not_part_of_the_api() -> None:
    evidence = properties()["status"]["properties"]["candidate"]["properties"]["evidence"]["properties"]
    assert evidence["state"]["type"] == "string"
    assert evidence.keys() == {"candidate", "stable", "against", "certifiedPercent", "at", "state"}


def test_no_field_of_a_status_is_a_list_of_numbers() -> None:
    for path, field in objects("status", properties()["status"]):
        for name, inner in field["properties"].items():
            if inner["type"] == "array":
                assert inner["items"]["type"] in ("object", "string"), f"{path}.{name}"


def test_scaling_reads_and_writes_fields_that_exist() -> None:
    scale = crd()["spec"]["versions"][0]["subresources"]["scale"]
    kinds = {}
    for name, path in scale.items():
        field: dict[str, Any] = {"properties": properties()}
        for part in path.strip(".").split("."):
            field = field["properties"][part]
        kinds[name] = field["type"]
    assert kinds == {"specReplicasPath": "integer", "statusReplicasPath": "integer", "labelSelectorPath": "string"}


def test_a_definition_that_knows_the_format_fits() -> None:
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
